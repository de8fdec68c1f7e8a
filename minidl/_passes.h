/* The passes over memory for one type of number. _kernels.c includes this file twice: with REAL as
 * float and as double, whose functions TYPED(name) tells apart. A ..._part is a task. */

/* Where element i of an array is. */
#define AT(array, i) ((REAL *)(array).data + (i))

/* STEP(i, lane) for each of n elements. Returns the sum of the lanes: they add 0 times a number,
 * which is 0 only where that number is finite. */
#define FOR_ALL_ELEMENTS(n)                                 \
    REAL lanes[16] = {0}, sum = 0;                          \
    Py_ssize_t i = 0;                                       \
    for (; i + 16 <= (n); i += 16)                          \
        for (int k = 0; k < 16; k++) STEP(i + k, lanes[k])  \
    for (; i < (n); i++) STEP(i, lanes[0])                  \
    for (int k = 0; k < 16; k++) sum += lanes[k];           \
    return sum;

/* ---- elementwise ---- */

VECTORISED static void TYPED(relu)(const REAL *x, REAL *y, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) y[i] = x[i] < 0 ? 0 : x[i]; /* keeps NaN */
}

VECTORISED static void TYPED(masked)(const REAL *dy, const REAL *y, REAL *dx, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) dx[i] = y[i] > 0 ? dy[i] : 0;
}

VECTORISED static void TYPED(add)(REAL *restrict y, const REAL *restrict b, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) y[i] += b[i];
}

static void TYPED(relu_part)(const void *arguments, int part, int parts) {
    const Reals *a = arguments;
    Py_ssize_t start, stop;
    bounds(a[1].size, part, parts, &start, &stop);
    TYPED(relu)(AT(a[0], start), AT(a[1], start), stop - start);
}

static void TYPED(relu_backward_part)(const void *arguments, int part, int parts) {
    const Reals *a = arguments;
    Py_ssize_t start, stop;
    bounds(a[2].size, part, parts, &start, &stop);
    TYPED(masked)(AT(a[0], start), AT(a[1], start), AT(a[2], start), stop - start);
}

VECTORISED static REAL TYPED(zeros)(const REAL *x, Py_ssize_t n) {
#define STEP(i, lane) lane += x[i] * 0;
    FOR_ALL_ELEMENTS(n)
#undef STEP
}

static void TYPED(finite_part)(const void *arguments, int part, int parts) {
    Finite *f = (Finite *)arguments;
    Py_ssize_t start, stop;
    bounds(f->x.size, part, parts, &start, &stop);
    f->sums[part] = TYPED(zeros)(AT(f->x, start), stop - start);
}

/* Each part has some columns, and adds its rows from first to last as NumPy does. */
static void TYPED(sum_rows_part)(const void *arguments, int part, int parts) {
    const Reals *a = arguments;
    Py_ssize_t n = a[1].size, rows = a[0].size / n, start, stop;
    bounds(n, part, parts, &start, &stop);
    for (Py_ssize_t i = start; i < stop; i++) *AT(a[1], i) = 0;
    for (Py_ssize_t row = 0; row < rows; row++)
        TYPED(add)(AT(a[1], start), AT(a[0], row * n + start), stop - start);
}

/* ---- batch normalization ---- */

VECTORISED static void TYPED(normalize)(const BatchNorm *b, Py_ssize_t start, Py_ssize_t width) {
    Py_ssize_t n = b->a[1].size, rows = b->a[0].size / n;
    const REAL *x = AT(b->a[0], start), *gamma = AT(b->a[1], start), *beta = AT(b->a[2], start);
    REAL *x_hat = AT(b->a[3], start), *y = AT(b->a[4], start), *mean = AT(b->a[5], start);
    REAL *var = mean + n, *r = var + n, eps = (REAL)b->eps;
    REAL sums[BLOCK] = {0}, squares[BLOCK] = {0};
    for (Py_ssize_t i = 0; i < rows; i++)
        for (Py_ssize_t j = 0; j < width; j++) sums[j] += x[i * n + j];
    for (Py_ssize_t j = 0; j < width; j++) mean[j] = sums[j] = sums[j] / (REAL)rows;
    for (Py_ssize_t i = 0; i < rows; i++)
        for (Py_ssize_t j = 0; j < width; j++) {
            REAL centred = x[i * n + j] - sums[j];
            squares[j] += centred * centred;
        }
    for (Py_ssize_t j = 0; j < width; j++) {
        var[j] = squares[j] / (REAL)rows;
        r[j] = 1 / sqrt(var[j] + eps);
    }
    for (Py_ssize_t i = 0; i < rows; i++)
        for (Py_ssize_t j = 0; j < width; j++) {
            REAL scaled = (x[i * n + j] - sums[j]) * r[j];
            x_hat[i * n + j] = scaled;
            y[i * n + j] = scaled * gamma[j] + beta[j];
        }
}

static void TYPED(batch_norm_part)(const void *arguments, int part, int parts) {
    const BatchNorm *b = arguments;
    Py_ssize_t start, stop;
    bounds(b->a[1].size, part, parts, &start, &stop);
    for (; start < stop; start += BLOCK)
        TYPED(normalize)(b, start, stop - start < BLOCK ? stop - start : BLOCK);
}

/* a: dy, x_hat, r, gamma, dx, dgamma, dbeta */
VECTORISED static void TYPED(denormalize)(const Reals *a, Py_ssize_t start, Py_ssize_t width) {
    Py_ssize_t n = a[2].size, rows = a[0].size / n;
    const REAL *dy = AT(a[0], start), *x_hat = AT(a[1], start), *r = AT(a[2], start);
    const REAL *gamma = AT(a[3], start);
    REAL *dx = AT(a[4], start), *dgamma = AT(a[5], start), *dbeta = AT(a[6], start);
    REAL sums[BLOCK] = {0}, products[BLOCK] = {0}, scale[BLOCK];
    for (Py_ssize_t i = 0; i < rows; i++)
        for (Py_ssize_t j = 0; j < width; j++) {
            sums[j] += dy[i * n + j];
            products[j] += dy[i * n + j] * x_hat[i * n + j];
        }
    for (Py_ssize_t j = 0; j < width; j++) {
        dbeta[j] = sums[j];
        dgamma[j] = products[j];
        sums[j] = sums[j] / (REAL)rows;
        products[j] = products[j] / (REAL)rows;
        scale[j] = gamma[j] * r[j];
    }
    for (Py_ssize_t i = 0; i < rows; i++)
        for (Py_ssize_t j = 0; j < width; j++)
            dx[i * n + j] =
                (dy[i * n + j] - x_hat[i * n + j] * products[j] - sums[j]) * scale[j];
}

static void TYPED(batch_norm_backward_part)(const void *arguments, int part, int parts) {
    const Reals *a = arguments;
    Py_ssize_t start, stop;
    bounds(a[2].size, part, parts, &start, &stop);
    for (; start < stop; start += BLOCK)
        TYPED(denormalize)(a, start, stop - start < BLOCK ? stop - start : BLOCK);
}

/* ---- softmax cross-entropy ---- */

VECTORISED static double TYPED(softmax_rows)(const REAL *z, const int64_t *labels, REAL *d,
                                             Py_ssize_t rows, Py_ssize_t n, REAL smoothing,
                                             REAL share) {
    double losses = 0.0;
    REAL rest = smoothing / (REAL)n;
    for (Py_ssize_t row = 0; row < rows; row++, z += n, d += n) {
        REAL largest = z[0], sum = 0, total = 0;
        for (Py_ssize_t j = 1; j < n; j++) largest = z[j] > largest ? z[j] : largest;
        for (Py_ssize_t j = 0; j < n; j++) d[j] = TYPED(exp)(z[j] - largest);
        for (Py_ssize_t j = 0; j < n; j++) total += d[j];
        if (smoothing != 0)
            for (Py_ssize_t j = 0; j < n; j++) sum += z[j] - largest;
        int64_t label = READ_ONCE(labels + row);
        if (label < 0 || label >= n) return NAN; /* it was a class a moment ago */
        REAL fit = (1 - smoothing) * (z[label] - largest) + rest * sum;
        losses += (double)(log(total) - fit);
        REAL scale = share / total;
        for (Py_ssize_t j = 0; j < n; j++) d[j] = d[j] * scale - share * rest;
        d[label] -= (1 - smoothing) * share;
    }
    return losses;
}

/* p = exp(z - the largest of its row), which sums to 1 in each row. */
VECTORISED static void TYPED(probabilities)(const REAL *z, REAL *p, Py_ssize_t rows, Py_ssize_t n) {
    for (Py_ssize_t row = 0; row < rows * n; row += n) {
        REAL largest = z[row];
        for (Py_ssize_t i = row; i < row + n; i++) largest = z[i] > largest ? z[i] : largest;
        for (Py_ssize_t i = row; i < row + n; i++) p[i] = z[i] - largest;
    }
    for (Py_ssize_t i = 0; i < rows * n; i++) p[i] = TYPED(exp)(p[i]);
    for (Py_ssize_t row = 0; row < rows; row++, p += n) {
        REAL total = 0;
        for (Py_ssize_t j = 0; j < n; j++) total += p[j];
        for (Py_ssize_t j = 0; j < n; j++) p[j] = p[j] / total;
    }
}

static void TYPED(probabilities_part)(const void *arguments, int part, int parts) {
    const Reals *a = arguments;
    Py_ssize_t rows = a[0].view.shape[0], n = a[0].view.shape[1];
    Py_ssize_t start = rows * part / parts, stop = rows * (part + 1) / parts;
    TYPED(probabilities)(AT(a[0], start * n), AT(a[1], start * n), stop - start, n);
}

static void TYPED(softmax_part)(const void *arguments, int part, int parts) {
    Softmax *s = (Softmax *)arguments;
    Py_ssize_t n = s->n, start = s->rows * part / parts, stop = s->rows * (part + 1) / parts;
    s->sums[part] = TYPED(softmax_rows)(AT(s->a[0], start * n), s->labels + start,
                                        AT(s->a[1], start * n), stop - start, n,
                                        (REAL)s->smoothing, (REAL)s->share);
}

/* ---- a row times a matrix ---- */

/* y += x @ W.  x: (k,), its elements `apart`.  W: (k, n), its rows ld apart. */
VECTORISED static void TYPED(add_row_times)(const REAL *x, Py_ssize_t apart, const REAL *W,
                                            Py_ssize_t ld, REAL *restrict y, Py_ssize_t k,
                                            Py_ssize_t n) {
    Py_ssize_t i = 0;
    for (; i + 8 <= k; i += 8, x += 8 * apart, W += 8 * ld) /* y is read and written less often */
        for (Py_ssize_t j = 0; j < n; j++) {
            REAL sum = x[0] * W[j];
            for (int row = 1; row < 8; row++) sum += x[row * apart] * W[row * ld + j];
            y[j] += sum;
        }
    for (; i < k; i++, x += apart, W += ld)
        for (Py_ssize_t j = 0; j < n; j++) y[j] += x[0] * W[j];
}

/* ---- products of a sparse matrix ---- */

VECTORISED static void TYPED(add_scaled)(REAL *restrict y, REAL a, const REAL *restrict x,
                                         Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) y[i] += a * x[i];
}

/* For each number in row i of x, in column c: into[c] += number * from[i] if `transposed`, else
 * into[i] += number * from[c]. Of both, it is `width` columns from `first` on. */
static void TYPED(add_row)(Sparse *s, Py_ssize_t i, int transposed, Py_ssize_t first,
                           Py_ssize_t width) {
    Py_ssize_t n = s->a[1].view.shape[1], size = s->a[0].size;
    Py_ssize_t n_columns = s->a[transposed ? 2 : 1].view.shape[0];
    Py_ssize_t k = READ_ONCE(s->starts + i), stop = READ_ONCE(s->starts + i + 1);
    if (k < 0 || stop > size) k = stop, s->wrong = 1;
    for (; k < stop; k++) {
        Py_ssize_t column = READ_ONCE(s->columns + k);
        if (column < 0 || column >= n_columns) {
            s->wrong = 1;
            continue;
        }
        Py_ssize_t from = transposed ? i : column, into = transposed ? column : i;
        TYPED(add_scaled)(AT(s->a[2], into * n + first), *AT(s->a[0], k),
                          AT(s->a[1], from * n + first), width);
    }
}

/* Each part has some rows of y. */
static void TYPED(sparse_part)(const void *arguments, int part, int parts) {
    Sparse *s = (Sparse *)arguments;
    Py_ssize_t n = s->a[1].view.shape[1];
    Py_ssize_t start = s->rows * part / parts, stop = s->rows * (part + 1) / parts;
    for (Py_ssize_t i = start; i < stop; i++) {
        REAL *y = AT(s->a[2], i * n);
        memset(y, 0, n * sizeof(REAL));
        TYPED(add_row)(s, i, 0, 0, n);
        if (s->n_arrays == 4) TYPED(add)(y, s->a[3].data, n);
        if (s->relu) TYPED(relu)(y, y, n);
    }
}

/* Each part has some columns of dW, and adds the rows of x from first to last as SciPy does. */
static void TYPED(sparse_backward_part)(const void *arguments, int part, int parts) {
    Sparse *s = (Sparse *)arguments;
    Py_ssize_t n = s->a[1].view.shape[1], start, stop;
    bounds(n, part, parts, &start, &stop);
    for (Py_ssize_t i = 0; i < s->a[2].view.shape[0]; i++)
        memset(AT(s->a[2], i * n + start), 0, (stop - start) * sizeof(REAL));
    for (Py_ssize_t i = 0; i < s->rows; i++) TYPED(add_row)(s, i, 1, start, stop - start);
}

/* ---- the update ---- */

VECTORISED static REAL TYPED(sgd)(REAL *restrict p, const REAL *restrict g, REAL *restrict v,
                                  Py_ssize_t n, const double *settings) {
    const REAL rate = (REAL)settings[0], momentum = (REAL)settings[1], decay = (REAL)settings[2],
               scale = (REAL)settings[3];
    const int nesterov = settings[4] != 0;
#define STEP(i, lane)                                             \
    {                                                             \
        REAL d = scale == 1 ? g[i] : g[i] * scale;                \
        if (decay != 0) d = p[i] * decay + d;                     \
        REAL w = v[i] * momentum + d;                             \
        v[i] = w;                                                 \
        REAL s = nesterov ? (w * momentum + d) * rate : w * rate; \
        REAL q = p[i] - s;                                        \
        p[i] = q;                                                 \
        lane += q * 0;                                            \
    }
    FOR_ALL_ELEMENTS(n)
#undef STEP
}

VECTORISED static REAL TYPED(adam)(REAL *restrict p, const REAL *restrict g, REAL *restrict m,
                                   REAL *restrict v, Py_ssize_t n, const double *settings) {
    const REAL rate = (REAL)settings[0], beta1 = (REAL)settings[1], beta2 = (REAL)settings[2],
               eps = (REAL)settings[3], decay = (REAL)settings[4], scale = (REAL)settings[5],
               shrink = (REAL)settings[6], rest1 = (REAL)settings[7], rest2 = (REAL)settings[8];
#define STEP(i, lane)                                \
    {                                                \
        REAL q = shrink == 1 ? p[i] : p[i] * shrink; \
        REAL d = scale == 1 ? g[i] : g[i] * scale;   \
        if (decay != 0) d = q * decay + d;           \
        REAL a = m[i] * beta1 + d * rest1;           \
        REAL b = v[i] * beta2 + d * d * rest2;       \
        m[i] = a;                                    \
        v[i] = b;                                    \
        q -= a / (sqrt(b) + eps) * rate;             \
        p[i] = q;                                    \
        lane += q * 0;                               \
    }
    FOR_ALL_ELEMENTS(n)
#undef STEP
}

static void TYPED(sgd_part)(const void *arguments, int part, int parts) {
    Update *u = (Update *)arguments;
    Py_ssize_t start, stop;
    bounds(u->a[0].size, part, parts, &start, &stop);
    u->sums[part] = TYPED(sgd)(AT(u->a[0], start), AT(u->a[1], start), AT(u->a[2], start),
                               stop - start, u->settings);
}

static void TYPED(adam_part)(const void *arguments, int part, int parts) {
    Update *u = (Update *)arguments;
    Py_ssize_t start, stop;
    bounds(u->a[0].size, part, parts, &start, &stop);
    u->sums[part] = TYPED(adam)(AT(u->a[0], start), AT(u->a[1], start), AT(u->a[2], start),
                                AT(u->a[3], start), stop - start, u->settings);
}

#undef AT
#undef FOR_ALL_ELEMENTS
