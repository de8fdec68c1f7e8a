/* The passes over memory for one type of number. _kernels.c includes this file twice: with REAL as
 * float and as double, whose functions TYPED(name) tells apart. A ..._part is a task. */

/* Where element i of an array is. */
#define AT(array, i) ((REAL *)(array).data + (i))

/* STEP(i, lane) for each element of one part of n; no step needs what another one wrote. What the
 * part has to tell is the sum of the lanes: 0 times a number is 0 only where that is finite. The
 * lanes of some elements are added in double: a float that adds up millions loses four digits. */
#define FOR_ALL_ELEMENTS(n)                                           \
    double sum = 0;                                                   \
    Py_ssize_t i, stop;                                               \
    bounds(n, part, parts, &i, &stop);                                \
    while (i < stop) {                                                \
        REAL lanes[LANES] = {0};                                      \
        const Py_ssize_t end = stop - i < AT_ONCE ? stop : i + AT_ONCE; \
        for (; i + LANES <= end; i += LANES)                          \
            _Pragma("GCC ivdep")                                      \
            for (int k = 0; k < LANES; k++) STEP(i + k, lanes[k])     \
        for (; i < end; i++) STEP(i, lanes[0])                        \
        for (int k = 0; k < LANES; k++) sum += lanes[k];              \
    }                                                                 \
    w->sums[part] = sum;

/* ---- elementwise ---- */

/* The task whose last array is `value` of each x in the array before it; `first` is of the first
 * array. Those are one where there are two arrays: x, y. Backwards they are dy, x or y, and dx. */
#define ELEMENTWISE(name, value)                                              \
    VECTORISED static void TYPED(name##_part)(Work *w, int part, int parts) { \
        const int last = w->n_arrays - 1;                                     \
        const REAL *firsts = w->a[0].data, *xs = w->a[last - 1].data;         \
        REAL *out = w->a[last].data;                                          \
        Py_ssize_t i, stop;                                                   \
        bounds(w->a[last].size, part, parts, &i, &stop);                      \
        _Pragma("GCC ivdep")                                                  \
        for (; i < stop; i++) {                                               \
            const REAL first = firsts[i], x = xs[i];                          \
            (void)first; /* not in each value */                              \
            out[i] = value;                                                   \
        }                                                                     \
    }

/* 1 / (1 + exp(-x)), to full precision in both tails. */
static inline REAL TYPED(logistic)(REAL x) {
    REAL e = TYPED(exp_less)(x < 0 ? x : -x, 0);
    return (x < 0 ? e : 1) / (1 + e);
}

/* tanh(|x|) = -t / (2 + t), t = exp(-2 |x|) - 1. */
static inline REAL TYPED(tangent)(REAL x) {
    REAL t = TYPED(exp_less)(x < 0 ? 2 * x : -2 * x, 1);
    return (x < 0 ? t : -t) / (2 + t);
}

/* Of y = x * s it is s + y * (1 - s). */
static inline REAL TYPED(silu_slope)(REAL x) {
    REAL s = TYPED(logistic)(x);
    return s + x * s * (1 - s);
}

ELEMENTWISE(relu, x < 0 ? 0 : x) /* keeps NaN */
ELEMENTWISE(relu_backward, x > 0 ? first : 0)
ELEMENTWISE(sigmoid, TYPED(logistic)(x))
ELEMENTWISE(sigmoid_backward, first * (x * (1 - x)))
ELEMENTWISE(tanh, TYPED(tangent)(x))
ELEMENTWISE(tanh_backward, first * (1 - x * x))
ELEMENTWISE(silu, x * TYPED(logistic)(x))
ELEMENTWISE(silu_backward, first * TYPED(silu_slope)(x))

/* What a ReLU beside a product does: y becomes max(y, 0), or 0 where it has kept nothing. */
VECTORISED static void TYPED(finish)(int rectifies, const REAL *kept, REAL *y, Py_ssize_t n) {
    for (Py_ssize_t i = 0; rectifies && i < n; i++) y[i] = y[i] < 0 ? 0 : y[i];
    for (Py_ssize_t i = 0; kept && i < n; i++) y[i] = kept[i] > 0 ? y[i] : 0;
}

VECTORISED static void TYPED(add_scaled)(REAL *restrict y, REAL a, const REAL *restrict x,
                                         Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) y[i] += a * x[i];
}

VECTORISED static void TYPED(finite_part)(Work *w, int part, int parts) {
    const REAL *x = w->a[0].data;
#define STEP(i, lane) lane += x[i] * 0;
    FOR_ALL_ELEMENTS(w->a[0].size)
#undef STEP
}

/* Each part has some columns, and adds its rows from first to last as NumPy does. */
static void TYPED(sum_rows_part)(Work *w, int part, int parts) {
    Py_ssize_t n = w->a[1].size, rows = w->a[0].size / n, start, stop;
    bounds(n, part, parts, &start, &stop);
    for (Py_ssize_t i = start; i < stop; i++) *AT(w->a[1], i) = 0;
    for (Py_ssize_t row = 0; row < rows; row++)
        TYPED(add_scaled)(AT(w->a[1], start), 1, AT(w->a[0], row * n + start), stop - start);
}

/* ---- batch normalization ---- */

/* Each part has some columns, BLOCK of them at a time. */
VECTORISED static void TYPED(batch_norm_part)(Work *w, int part, int parts) {
    const Py_ssize_t n = w->a[1].size, rows = w->a[0].size / n;
    const REAL eps = (REAL)w->settings[0];
    Py_ssize_t start, stop;
    bounds(n, part, parts, &start, &stop);
    for (; start < stop; start += BLOCK) {
        const Py_ssize_t width = stop - start < BLOCK ? stop - start : BLOCK;
        const REAL *x = AT(w->a[0], start), *gamma = AT(w->a[1], start), *beta = AT(w->a[2], start);
        REAL *x_hat = AT(w->a[3], start), *y = AT(w->a[4], start), *mean = AT(w->a[5], start);
        REAL *var = mean + n, *r = var + n, sums[BLOCK] = {0}, squares[BLOCK] = {0};
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
}

/* w->a: dy, x_hat, r, gamma, dx, dgamma, dbeta */
VECTORISED static void TYPED(batch_norm_backward_part)(Work *w, int part, int parts) {
    const Array *a = w->a;
    const Py_ssize_t n = a[2].size, rows = a[0].size / n;
    Py_ssize_t start, stop;
    bounds(n, part, parts, &start, &stop);
    for (; start < stop; start += BLOCK) {
        const Py_ssize_t width = stop - start < BLOCK ? stop - start : BLOCK;
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
}

/* ---- cross-entropy ---- */

/* The exponentials of some rows are taken together. */
VECTORISED static void TYPED(softmax_part)(Work *w, int part, int parts) {
    const Py_ssize_t n_rows = w->a[0].view.shape[0], n = w->a[0].view.shape[1];
    const Py_ssize_t stop = n_rows * (part + 1) / parts;
    const REAL share = (REAL)w->settings[0], smoothing = (REAL)w->settings[1];
    const REAL rest = smoothing / (REAL)n;
    REAL fits[ROWS];
    int64_t classes[ROWS], *labels = w->a[1].data;
    double losses = 0.0;
    for (Py_ssize_t row = n_rows * part / parts; row < stop; row += ROWS) {
        const Py_ssize_t m = stop - row < ROWS ? stop - row : ROWS;
        const REAL *z = AT(w->a[0], row * n);
        REAL *d = AT(w->a[2], row * n);
        for (Py_ssize_t i = 0; i < m; i++) {
            const REAL *z_i = z + i * n;
            REAL *d_i = d + i * n, largest = z_i[0], sum = 0;
            for (Py_ssize_t j = 1; j < n; j++) largest = z_i[j] > largest ? z_i[j] : largest;
            for (Py_ssize_t j = 0; j < n; j++) d_i[j] = z_i[j] - largest;
            if (smoothing != 0)
                for (Py_ssize_t j = 0; j < n; j++) sum += d_i[j];
            classes[i] = READ_ONCE(labels + row + i);
            if (classes[i] < 0 || classes[i] >= n) { /* it was a class a moment ago */
                w->sums[part] = NAN;
                return;
            }
            fits[i] = (1 - smoothing) * d_i[classes[i]] + rest * sum;
        }
        for (Py_ssize_t k = 0; k < m * n; k++) d[k] = TYPED(exp_less)(d[k], 0);
        for (Py_ssize_t i = 0; i < m; i++) {
            REAL *d_i = d + i * n, total = 0;
            for (Py_ssize_t j = 0; j < n; j++) total += d_i[j];
            losses += (double)(log(total) - fits[i]);
            REAL scale = share / total;
            for (Py_ssize_t j = 0; j < n; j++) d_i[j] = d_i[j] * scale - share * rest;
            d_i[classes[i]] -= (1 - smoothing) * share;
        }
    }
    w->sums[part] = losses;
}

/* log(1 + exp(z)) - t z, without an overflow, and its slope. */
VECTORISED static void TYPED(sigmoid_loss_part)(Work *w, int part, int parts) {
    const REAL *z = w->a[0].data, *t = w->a[1].data, share = (REAL)w->settings[0];
    REAL *d = w->a[2].data;
    double losses = 0.0;
    Py_ssize_t i, stop;
    bounds(w->a[0].size, part, parts, &i, &stop);
    for (; i < stop; i++) {
        const REAL e = TYPED(exp_less)(z[i] < 0 ? z[i] : -z[i], 0);
        losses += (double)((z[i] > 0 ? z[i] : 0) - t[i] * z[i] + log1p(e));
        d[i] = (TYPED(logistic)(z[i]) - t[i]) * share;
    }
    w->sums[part] = losses;
}

/* p = exp(z - the largest of its row), which sums to 1 in each row. */
VECTORISED static void TYPED(probabilities_part)(Work *w, int part, int parts) {
    const Py_ssize_t n_rows = w->a[0].view.shape[0], n = w->a[0].view.shape[1];
    const Py_ssize_t start = n_rows * part / parts * n, stop = n_rows * (part + 1) / parts * n;
    const REAL *z = w->a[0].data;
    REAL *p = w->a[1].data;
    for (Py_ssize_t row = start; row < stop; row += n) {
        REAL largest = z[row];
        for (Py_ssize_t i = row; i < row + n; i++) largest = z[i] > largest ? z[i] : largest;
        for (Py_ssize_t i = row; i < row + n; i++) p[i] = z[i] - largest;
    }
    for (Py_ssize_t i = start; i < stop; i++) p[i] = TYPED(exp_less)(p[i], 0);
    for (Py_ssize_t row = start; row < stop; row += n) {
        REAL total = 0;
        for (Py_ssize_t i = row; i < row + n; i++) total += p[i];
        for (Py_ssize_t i = row; i < row + n; i++) p[i] = p[i] / total;
    }
}

/* ---- products ---- */

/* The CBLAS interface, with sizes of 64 bits (NumPy's wheels) or of 32 (most other libraries). */
#define BLAS(Gemm, Gemv, size)                                                                \
    typedef void (*TYPED(Gemm))(int order, int trans_a, int trans_b, size m, size n, size k,  \
                                REAL alpha, const REAL *a, size lda, const REAL *b, size ldb, \
                                REAL beta, REAL *c, size ldc);                                \
    typedef void (*TYPED(Gemv))(int order, int trans, size m, size n, REAL alpha, const REAL *a, \
                                size lda, const REAL *x, size incx, REAL beta, REAL *y, size incy);
BLAS(Gemm, Gemv, int64_t)
BLAS(NarrowGemm, NarrowGemv, int32_t)
static void *TYPED(gemm), *TYPED(gemv);

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

static REAL *TYPED(place)(const Array *m, int64_t row, int64_t column) {
    return AT(*m, m->trans ? column * m->ld + row : row * m->ld + column);
}

static void TYPED(matmul_part)(Work *w, int part, int parts) {
    const Array *a = &w->a[0], *b = &w->a[1], *c = &w->a[2];
    const REAL *bias = w->a[3].data, *to_keep = w->a[4].data;
    const Py_ssize_t n = c->columns, k = a->columns;
    /* Each part packs for itself what is not cut, so a long wide product is cut by columns. */
    const int by_rows = n < 4 * c->rows || k < 32;
    Py_ssize_t start, stop;
    bounds(by_rows ? c->rows : n, part, parts, &start, &stop);
    if (start == stop) return;
    const Py_ssize_t row = by_rows ? start : 0, end = by_rows ? stop : c->rows;
    const Py_ssize_t column = by_rows ? 0 : start, width = by_rows ? n : stop - start;
    const REAL *from_a = TYPED(place)(a, row, 0), *from_b = TYPED(place)(b, 0, column);
    REAL *to = TYPED(place)(c, row, column);
    /* What BLAS adds to may as well be the bias: otherwise it would fill c with zeros first. */
    for (Py_ssize_t i = row; bias && i < end; i++)
        memcpy(TYPED(place)(c, i, column), bias + column, width * sizeof(REAL));
    const int trans_a = a->trans ? TRANS : NO_TRANS, trans_b = b->trans ? TRANS : NO_TRANS;
    if (c->rows == 1) {
        if (!bias) memset(to, 0, width * sizeof(REAL));
        TYPED(add_row_times)(from_a, a->trans ? a->ld : 1, from_b, b->ld, to, k, width);
    } else if (n == 1) {
#define CALL_GEMV(Gemv)                                                                        \
    ((TYPED(Gemv))TYPED(gemv))(ROW_MAJOR, trans_a, a->trans ? k : end - row,                   \
                               a->trans ? end - row : k, 1, from_a, a->ld, from_b,             \
                               b->trans ? 1 : b->ld, bias ? 1 : 0, to, c->ld)
        narrow ? CALL_GEMV(NarrowGemv) : CALL_GEMV(Gemv);
    } else {
#define CALL_GEMM(Gemm)                                                                        \
    ((TYPED(Gemm))TYPED(gemm))(ROW_MAJOR, trans_a, trans_b, end - row, width, k, 1, from_a,    \
                               a->ld, from_b, b->ld, bias ? 1 : 0, to, c->ld)
        narrow ? CALL_GEMM(NarrowGemm) : CALL_GEMM(Gemm);
    }
    /* While this part is in the cache. */
    for (Py_ssize_t i = row; i < end && (w->settings[0] != 0 || to_keep); i++)
        TYPED(finish)(w->settings[0] != 0, to_keep ? to_keep + i * n + column : NULL,
                      TYPED(place)(c, i, column), width);
}

/* ---- products of a sparse matrix ---- */

/* For each number in row i of x, in column c: into[c] += number * from[i] if `transposed`, else
 * into[i] += number * from[c]. Of both, it is `width` columns from `first` on. Returns whether a
 * column or a start is not one of x. Rows that lie anywhere are asked for four numbers ahead. */
static int TYPED(add_row)(const Array *a, Py_ssize_t i, int transposed, Py_ssize_t first,
                          Py_ssize_t width) {
    const int32_t *columns = a[1].data, *starts = a[2].data;
    const Array *far = &a[transposed ? 4 : 3];
    Py_ssize_t n = a[3].view.shape[1], n_columns = far->view.shape[0];
    Py_ssize_t k = READ_ONCE(starts + i), stop = READ_ONCE(starts + i + 1);
    if (k < 0 || stop > a[0].size) return 1;
    for (; k < stop; k++) {
        Py_ssize_t later = READ_ONCE(columns + (k + 4 < stop ? k + 4 : k)) * n + first;
        for (Py_ssize_t j = 0; j < width; j += 64 / (Py_ssize_t)sizeof(REAL))
            __builtin_prefetch(AT(*far, later + j));
        Py_ssize_t column = READ_ONCE(columns + k);
        if (column < 0 || column >= n_columns) return 1;
        Py_ssize_t from = transposed ? i : column, into = transposed ? column : i;
        TYPED(add_scaled)(AT(a[4], into * n + first), *AT(a[0], k), AT(a[3], from * n + first),
                          width);
    }
    return 0;
}

/* Each part has some rows of y. */
static void TYPED(sparse_part)(Work *w, int part, int parts) {
    const Array *a = w->a;
    Py_ssize_t n = a[3].view.shape[1], rows = a[4].view.shape[0];
    for (Py_ssize_t i = rows * part / parts; i < rows * (part + 1) / parts; i++) {
        REAL *y = AT(a[4], i * n);
        memset(y, 0, n * sizeof(REAL));
        w->sums[part] += TYPED(add_row)(a, i, 0, 0, n);
        if (a[5].data) TYPED(add_scaled)(y, 1, a[5].data, n);
        TYPED(finish)(w->settings[0] != 0, NULL, y, n);
    }
}

/* Each part has some columns of dW, and adds the rows of x from first to last as SciPy does. */
static void TYPED(sparse_gradient_part)(Work *w, int part, int parts) {
    const Array *a = w->a;
    Py_ssize_t n = a[3].view.shape[1], start, stop;
    bounds(n, part, parts, &start, &stop);
    for (Py_ssize_t i = 0; i < a[4].view.shape[0]; i++)
        memset(AT(a[4], i * n + start), 0, (stop - start) * sizeof(REAL));
    for (Py_ssize_t i = 0; i < a[3].view.shape[0]; i++)
        w->sums[part] += TYPED(add_row)(a, i, 1, start, stop - start);
}

/* ---- the update ---- */

VECTORISED static void TYPED(add_l2_part)(Work *w, int part, int parts) {
    REAL *restrict g = w->a[0].data;
    const REAL *restrict p = w->a[1].data, strength = (REAL)w->settings[0];
#define STEP(i, lane)               \
    {                               \
        g[i] += strength * p[i];    \
        lane += p[i] * p[i];        \
    }
    FOR_ALL_ELEMENTS(w->a[0].size)
#undef STEP
}

VECTORISED static void TYPED(sgd_part)(Work *w, int part, int parts) {
    REAL *restrict p = w->a[0].data, *restrict v = w->a[2].data;
    const REAL *restrict g = w->a[1].data, rate = (REAL)w->settings[0],
               momentum = (REAL)w->settings[1], decay = (REAL)w->settings[2],
               scale = (REAL)w->settings[3];
    const int nesterov = w->settings[4] != 0;
#define STEP(i, lane)                                             \
    {                                                             \
        REAL d = scale == 1 ? g[i] : g[i] * scale;                \
        if (decay != 0) d = p[i] * decay + d;                     \
        REAL u = v[i] * momentum + d;                             \
        v[i] = u;                                                 \
        REAL s = nesterov ? (u * momentum + d) * rate : u * rate; \
        REAL q = p[i] - s;                                        \
        p[i] = q;                                                 \
        lane += q * 0;                                            \
    }
    FOR_ALL_ELEMENTS(w->a[0].size)
#undef STEP
}

VECTORISED static void TYPED(adam_part)(Work *w, int part, int parts) {
    REAL *restrict p = w->a[0].data, *restrict m = w->a[2].data, *restrict v = w->a[3].data;
    const REAL *restrict g = w->a[1].data;
    const double *s = w->settings;
    const REAL rate = (REAL)s[0], beta1 = (REAL)s[1], beta2 = (REAL)s[2], eps = (REAL)s[3],
               decay = (REAL)s[4], scale = (REAL)s[5], shrink = (REAL)s[6], rest1 = (REAL)s[7],
               rest2 = (REAL)s[8];
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
    FOR_ALL_ELEMENTS(w->a[0].size)
#undef STEP
}
