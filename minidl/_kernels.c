/* The work of a training step on several threads, and in single passes over memory: see kernels.py,
 * which holds the reference for each function in NumPy and says why.
 *
 * A function returns None, and has done nothing, for arrays that it is not made for. Work is cut
 * into as many parts as there are threads; the cut depends on the sizes alone, so the bits of a
 * result depend on the number of threads (products, the loss of softmax) or on nothing (all else),
 * never on timing. Each Python thread has a number of its own; all share one crew. No
 * multiplication is contracted with an addition, so elementwise results have NumPy's bits.
 *
 * What depends on the type of the numbers, float32 or float64, stands once, in _passes.h.
 *
 * The interpreter's lock is released around all long work. Threads look out for new work for a
 * fraction of a millisecond before they sleep: waking takes as long as a small step. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <tgmath.h> /* sqrt and log of either type */

#define MAX_THREADS 32
#define LONG 16384         /* elements: shorter arrays are one part, with the lock held */
#define LONG_PRODUCT 3e5   /* multiplications: likewise */
#define LOOKS 10000        /* before sleeping; some 0.3 ms */
#define LOOKS_A_YIELD 32

/* One build for all x86-64 machines that still uses the widest vectors of each. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTORISED
#endif

#if defined(__x86_64__)
#define LOOK_AGAIN() __builtin_ia32_pause()
#else
#define LOOK_AGAIN() ((void)0)
#endif

/* ---- threads ---- */

typedef void (*Task)(const void *arguments, int part, int parts);

/* Parts of the next task of this Python thread; 0 where it has asked for no number. */
static _Thread_local int n_threads = 0;
static int n_started = 1; /* threads there are, the caller's included */
static Task task;
static const void *task_arguments;
static int task_parts;
static atomic_uint offer;       /* a bit for each part of the task that is not yet taken */
static atomic_int n_unfinished; /* parts of the present task */
static atomic_int n_asleep;
static atomic_int caller_asleep;
static atomic_flag in_use = ATOMIC_FLAG_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t has_work = PTHREAD_COND_INITIALIZER;
static pthread_cond_t is_done = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t no_fork = PTHREAD_RWLOCK_INITIALIZER;

/* Run parts of the present task until none is left. Each thread begins with the part of its own
 * number, whose rows it is likely to have in its cache, and then takes what is left: a thread that
 * another process keeps off its core holds up nobody. */
static void take_parts(int me) {
    unsigned seen = atomic_load(&offer);
    while (seen) {
        int part = seen >> me & 1 ? me : __builtin_ctz(seen);
        if (!atomic_compare_exchange_weak(&offer, &seen, seen & ~(1u << part))) continue;
        /* With a part in hand, the task stays the present one until that part is finished. */
        task(task_arguments, part, task_parts);
        if (atomic_fetch_sub(&n_unfinished, 1) == 1 && atomic_load(&caller_asleep)) {
            pthread_mutex_lock(&mutex);
            pthread_cond_signal(&is_done);
            pthread_mutex_unlock(&mutex);
        }
        seen = atomic_load(&offer);
    }
}

static void *help(void *number) {
    for (;;) {
        for (int i = 1; i <= LOOKS && !atomic_load(&offer); i++) {
            LOOK_AGAIN();
            /* Beside a busy core the system often puts a helper on the caller's: without this, the
             * caller would stand still while the helper looks for work. */
            if (i % LOOKS_A_YIELD == 0) sched_yield();
        }
        if (!atomic_load(&offer)) {
            pthread_mutex_lock(&mutex);
            atomic_fetch_add(&n_asleep, 1);
            while (!atomic_load(&offer)) pthread_cond_wait(&has_work, &mutex);
            atomic_fetch_sub(&n_asleep, 1);
            pthread_mutex_unlock(&mutex);
        }
        take_parts((int)(intptr_t)number);
    }
    return NULL;
}

static void start_threads(int wanted) {
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (pthread_t thread; n_started < wanted; n_started++)
        if (pthread_create(&thread, &detached, help, (void *)(intptr_t)n_started)) break;
    pthread_attr_destroy(&detached);
}

static void run_with_crew(Task function, const void *arguments, int parts) {
    start_threads(parts); /* where they are not there yet: a forked child has none */
    task = function;
    task_arguments = arguments;
    task_parts = parts;
    atomic_store(&n_unfinished, parts);
    atomic_store(&offer, ~0u >> (MAX_THREADS - parts));
    if (atomic_load(&n_asleep)) {
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&has_work);
        pthread_mutex_unlock(&mutex);
    }
    take_parts(0);
    for (int i = 0; i < LOOKS && atomic_load(&n_unfinished); i++) LOOK_AGAIN();
    if (atomic_load(&n_unfinished)) {
        pthread_mutex_lock(&mutex);
        atomic_store(&caller_asleep, 1);
        while (atomic_load(&n_unfinished)) pthread_cond_wait(&is_done, &mutex);
        atomic_store(&caller_asleep, 0);
        pthread_mutex_unlock(&mutex);
    }
}

/* Run all parts of a task; called without the interpreter's lock. */
static void run(Task function, const void *arguments, int parts) {
    pthread_rwlock_rdlock(&no_fork);
    if (parts > 1 && !atomic_flag_test_and_set(&in_use)) {
        run_with_crew(function, arguments, parts);
        atomic_flag_clear(&in_use);
    } else {
        /* Another thread has the crew: the parts are the same, one after the other. */
        for (int part = 0; part < parts; part++) function(arguments, part, parts);
    }
    pthread_rwlock_unlock(&no_fork);
}

/* A child that is forked in the middle of a product would inherit a lock of BLAS that nobody
 * releases. So a fork waits for the tasks of other threads, which need no Python to end, while it
 * holds the interpreter's lock, without which no other begins. */
static void wait_for_tasks(void) { pthread_rwlock_wrlock(&no_fork); }

static void go_on(void) { pthread_rwlock_unlock(&no_fork); }

/* A forked child has none of its parent's threads. */
static void forget_threads(void) {
    pthread_rwlock_init(&no_fork, NULL);
    n_started = 1;
    atomic_store(&offer, 0);
    atomic_store(&n_asleep, 0);
    atomic_store(&caller_asleep, 0);
    atomic_flag_clear(&in_use);
    pthread_mutex_init(&mutex, NULL);
    pthread_cond_init(&has_work, NULL);
    pthread_cond_init(&is_done, NULL);
}

static int parts_of_a_task(void) { return n_threads ? n_threads : 1; }

static PyObject *py_threads(PyObject *self, PyObject *nothing) {
    return PyLong_FromLong(n_threads);
}

static PyObject *py_set_threads(PyObject *self, PyObject *argument) {
    long wanted = PyLong_AsLong(argument);
    if (wanted == -1 && PyErr_Occurred()) return NULL;
    if (wanted < 0 || wanted > MAX_THREADS)
        return PyErr_Format(PyExc_ValueError, "threads must be in 0 to %d", MAX_THREADS);
    n_threads = (int)wanted;
    Py_RETURN_NONE;
}

/* ---- arrays ---- */

typedef struct {
    Py_buffer view; /* contiguous, of floats or of doubles */
    void *data;
    Py_ssize_t size; /* elements */
} Reals;

static void give_back(Reals *reals, int n) {
    for (int i = 0; i < n; i++) PyBuffer_Release(&reals[i].view);
}

/* Whether two stretches of memory share a byte. */
static int meet(const char *a, Py_ssize_t size_a, const char *b, Py_ssize_t size_b) {
    return a < b + size_b && b < a + size_a;
}

static int is_real(const Py_buffer *view) {
    return !strcmp(view->format, "f") || !strcmp(view->format, "d");
}

static int overlap(const Py_buffer *a, const Py_buffer *b) {
    return meet(a->buf, a->len, b->buf, b->len);
}

/* Borrow the memory of all objects; 0 unless all are contiguous float32 or all float64, and those
 * for 'w' are writable and share no memory with another. */
static int borrow(PyObject *const *objects, Reals *reals, int n, const char *access) {
    for (int i = 0; i < n; i++) {
        int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (access[i] == 'w' ? PyBUF_WRITABLE : 0);
        Py_buffer *view = &reals[i].view;
        if (PyObject_GetBuffer(objects[i], view, flags)) {
            PyErr_Clear();
            give_back(reals, i);
            return 0;
        }
        int fits = is_real(view) && view->itemsize == reals[0].view.itemsize;
        for (int j = 0; j < i; j++)
            if (access[i] == 'w' || access[j] == 'w') fits &= !overlap(view, &reals[j].view);
        if (!fits) {
            give_back(reals, i + 1);
            return 0;
        }
        reals[i].data = view->buf;
        reals[i].size = view->len / view->itemsize;
    }
    return 1;
}

/* What a function returns: it has done its work, or nothing. */
static PyObject *answer(int done) {
    if (!done) Py_RETURN_NONE;
    Py_RETURN_TRUE;
}

static int same_shape(const Reals *a, const Reals *b) {
    int same = a->view.ndim == b->view.ndim;
    for (int i = 0; same && i < a->view.ndim; i++) same = a->view.shape[i] == b->view.shape[i];
    return same;
}

static int is_row(const Reals *a, Py_ssize_t n) {
    return a->view.ndim == 1 && a->size == n;
}

static int is_matrix(const Reals *a, Py_ssize_t columns) {
    return a->view.ndim == 2 && a->view.shape[1] == columns;
}

/* Borrow n integers of so many bytes; 0 where it is something else. */
static int borrow_integers(PyObject *object, Py_buffer *view, Py_ssize_t n, Py_ssize_t size) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) {
        PyErr_Clear();
        return 0;
    }
    if (view->itemsize == size && strchr("ilq", view->format[0]) && view->ndim == 1 &&
        view->shape[0] == n)
        return 1;
    PyBuffer_Release(view);
    return 0;
}

/* An element of an array that another Python thread may change at any time, read once: who has
 * checked it has checked what is used. */
#define READ_ONCE(element) __atomic_load_n(element, __ATOMIC_RELAXED)

/* The bounds of one part of n elements, cut where a cache line ends. */
static void bounds(Py_ssize_t n, int part, int parts, Py_ssize_t *start, Py_ssize_t *stop) {
    *start = part == 0 ? 0 : n * part / parts / 16 * 16;
    *stop = part == parts - 1 ? n : n * (part + 1) / parts / 16 * 16;
}

static void run_over(Py_ssize_t size, Task function, const void *arguments) {
    if (size <= LONG) {
        function(arguments, 0, 1);
    } else {
        Py_BEGIN_ALLOW_THREADS
        run(function, arguments, parts_of_a_task());
        Py_END_ALLOW_THREADS
    }
}

/* ---- passes over memory, for floats and for doubles ---- */

typedef struct {
    Reals x;
    double sums[MAX_THREADS]; /* of each part: 0 only where all its numbers are finite */
} Finite;

#define BLOCK 64 /* columns at a time: the sums stay in registers, the rows in the cache */

typedef struct {
    Reals a[6]; /* x, gamma, beta, x_hat, y, (mean, var, r) */
    double eps;
} BatchNorm;

typedef struct {
    Reals a[2]; /* logits, dlogits */
    const int64_t *labels;
    Py_ssize_t rows, n;
    double smoothing, share;
    double sums[MAX_THREADS]; /* of the losses of each part's rows */
} Softmax;

/* exp(x) for x <= 0 to within 2 units in the last place, NaN for NaN: 2**n times a polynomial in
 * the rest, as in Cephes by S. L. Moshier. Below -87 it is 0. */
static inline float exp_float(float x) {
    float c = x > -87.0f ? x : -87.0f; /* NaN has no place in an exponent */
    float n = (float)(int)(c * 1.44269504f - 0.5f);
    float r = c - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t bits;
        float value;
    } power = {.bits = ((int32_t)n + 127) << 23};
    return x < -87.0f ? 0.0f : x != x ? x : p * power.value;
}

/* Likewise, down to -708: 1 + 2 x P / (Q - x P), with polynomials P and Q in x**2. */
static inline double exp_double(double x) {
    double c = x > -708.0 ? x : -708.0;
    double n = (double)(int)(c * 1.4426950408889634 - 0.5);
    double r = c - n * 6.93145751953125e-1 - n * 1.42860682030941723212e-6;
    double s = r * r;
    double p = 1.26177193074810590878e-4;
    p = p * s + 3.02994407707441961300e-2;
    p = (p * s + 9.99999999999999999910e-1) * r;
    double q = 3.00198505138664455042e-6;
    q = q * s + 2.52448340349684104192e-3;
    q = q * s + 2.27265548208155028766e-1;
    q = q * s + 2.0;
    union {
        int64_t bits;
        double value;
    } power = {.bits = ((int64_t)(int)n + 1023) << 52};
    return x < -708.0 ? 0.0 : x != x ? x : (2.0 * p / (q - p) + 1.0) * power.value;
}

typedef struct {
    Reals a[4]; /* the numbers of x, W or dy, y or dW, and b if there is one */
    const int32_t *columns, *starts;
    Py_ssize_t rows; /* of x */
    int n_arrays, relu;
    atomic_int wrong; /* whether a column or a start is not one of x */
} Sparse;

enum { MOST_ARRAYS = 4, MOST_SETTINGS = 9 };

typedef struct {
    Reals a[MOST_ARRAYS];        /* p, g and the averages */
    double settings[MOST_SETTINGS]; /* in the order in which Python gives them */
    double sums[MAX_THREADS];      /* as those of Finite, over the new parameters */
} Update;

static int are_zeros(const double *sums) {
    double sum = 0.0;
    for (int i = 0; i < MAX_THREADS; i++) sum += sums[i];
    return sum == 0.0;
}

#define REAL float
#define TYPED(name) name##_float
#include "_passes.h"
#undef REAL
#undef TYPED
#define REAL double
#define TYPED(name) name##_double
#include "_passes.h"

/* The function for the type of an array. */
#define FOR(array, name) ((array).view.itemsize == sizeof(float) ? name##_float : name##_double)

/* ---- elementwise ---- */

static PyObject *py_relu(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Reals a[2];
    if (n_args != 2) return PyErr_Format(PyExc_TypeError, "relu takes x, y");
    if (!borrow(args, a, 2, "rw")) Py_RETURN_NONE;
    int fits = same_shape(&a[0], &a[1]);
    if (fits) run_over(a[1].size, FOR(a[0], relu_part), a);
    give_back(a, 2);
    return answer(fits);
}

static PyObject *py_relu_backward(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Reals a[3];
    if (n_args != 3) return PyErr_Format(PyExc_TypeError, "relu_backward takes dy, y, dx");
    if (!borrow(args, a, 3, "rrw")) Py_RETURN_NONE;
    int fits = same_shape(&a[0], &a[2]) && same_shape(&a[1], &a[2]);
    if (fits) run_over(a[2].size, FOR(a[0], relu_backward_part), a);
    give_back(a, 3);
    return answer(fits);
}

static PyObject *py_finite(PyObject *self, PyObject *x) {
    Finite f = {.sums = {0}};
    if (!borrow(&x, &f.x, 1, "r")) Py_RETURN_NONE;
    run_over(f.x.size, FOR(f.x, finite_part), &f);
    give_back(&f.x, 1);
    return PyBool_FromLong(are_zeros(f.sums));
}

static PyObject *py_sum_rows(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Reals a[2];
    if (n_args != 2) return PyErr_Format(PyExc_TypeError, "sum_rows takes x, sums");
    if (!borrow(args, a, 2, "rw")) Py_RETURN_NONE;
    int fits = a[1].size > 0 && is_row(&a[1], a[1].size) && is_matrix(&a[0], a[1].size);
    if (fits) run_over(a[0].size, FOR(a[0], sum_rows_part), a);
    give_back(a, 2);
    return answer(fits);
}

/* ---- batch normalization ---- */

static PyObject *py_batch_norm(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    BatchNorm b;
    if (n_args != 7)
        return PyErr_Format(PyExc_TypeError,
                            "batch_norm takes x, gamma, beta, x_hat, y, stats, eps");
    b.eps = PyFloat_AsDouble(args[6]);
    if (PyErr_Occurred()) return NULL;
    if (!borrow(args, b.a, 6, "rrrwww")) Py_RETURN_NONE;
    Py_ssize_t n = b.a[1].size;
    const Reals *x = &b.a[0], *stats = &b.a[5];
    int fits = x->size > 0 && is_matrix(x, n) && is_row(&b.a[1], n) && is_row(&b.a[2], n) &&
               same_shape(&b.a[3], x) && same_shape(&b.a[4], x) && is_matrix(stats, n) &&
               stats->size == 3 * n;
    if (fits) run_over(b.a[0].size, FOR(b.a[0], batch_norm_part), &b);
    give_back(b.a, 6);
    return answer(fits);
}

static PyObject *py_batch_norm_backward(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Reals a[7];
    if (n_args != 7)
        return PyErr_Format(PyExc_TypeError,
                            "batch_norm_backward takes dy, x_hat, r, gamma, dx, dgamma, dbeta");
    if (!borrow(args, a, 7, "rrrrwww")) Py_RETURN_NONE;
    Py_ssize_t n = a[2].size;
    int fits = a[0].size > 0 && is_matrix(&a[0], n) && same_shape(&a[1], &a[0]) &&
               is_row(&a[2], n) && is_row(&a[3], n) && same_shape(&a[4], &a[0]) &&
               is_row(&a[5], n) && is_row(&a[6], n);
    if (fits) run_over(a[0].size, FOR(a[0], batch_norm_backward_part), a);
    give_back(a, 7);
    return answer(fits);
}

/* ---- gathering rows ---- */

typedef struct {
    Reals a[2]; /* X, out */
    const int64_t *rows;
    Py_ssize_t n_rows;
} Gather;

static void take_rows_part(const void *arguments, int part, int parts) {
    const Gather *t = arguments;
    const char *X = t->a[0].data;
    char *out = t->a[1].data;
    int64_t n_samples = t->a[0].view.shape[0];
    Py_ssize_t n = t->a[0].view.shape[1] * t->a[0].view.itemsize; /* bytes of a row */
    Py_ssize_t start = t->n_rows * part / parts, stop = t->n_rows * (part + 1) / parts;
    Py_ssize_t ahead = 1 + 2048 / (n + 4);
    for (Py_ssize_t i = start; i < stop; i++) {
        /* The rows lie anywhere: unless they are asked for in time, each is waited for. */
        if (i + ahead < stop)
            for (Py_ssize_t j = 0; j < n; j += 64)
                __builtin_prefetch(X + t->rows[i + ahead] * n + j);
        int64_t row = READ_ONCE(t->rows + i);
        if (row >= 0 && row < n_samples)
            memcpy(out + i * n, X + row * n, n);
    }
}

static PyObject *py_take_rows(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Gather t;
    Py_buffer rows;
    if (n_args != 3) return PyErr_Format(PyExc_TypeError, "take_rows takes X, rows, out");
    PyObject *arrays[2] = {args[0], args[2]};
    if (!borrow(arrays, t.a, 2, "rw")) Py_RETURN_NONE;
    const Py_buffer *X = &t.a[0].view, *out = &t.a[1].view;
    int fits = X->ndim == 2 && out->ndim == 2 && X->shape[1] == out->shape[1] &&
               borrow_integers(args[1], &rows, out->shape[0], 8);
    if (fits) {
        t.rows = rows.buf;
        t.n_rows = rows.shape[0];
        for (Py_ssize_t i = 0; i < t.n_rows; i++)
            fits &= t.rows[i] >= 0 && t.rows[i] < X->shape[0];
        if (fits) run_over(t.a[1].size, take_rows_part, &t);
        PyBuffer_Release(&rows);
    }
    give_back(t.a, 2);
    return answer(fits);
}

/* ---- softmax cross-entropy ---- */

static PyObject *py_softmax(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Softmax s = {.sums = {0}};
    Py_buffer labels;
    if (n_args != 5)
        return PyErr_Format(PyExc_TypeError,
                            "softmax takes logits, labels, dlogits, smoothing, share");
    s.smoothing = PyFloat_AsDouble(args[3]);
    s.share = PyFloat_AsDouble(args[4]);
    if (PyErr_Occurred()) return NULL;
    PyObject *logits[2] = {args[0], args[2]};
    if (!borrow(logits, s.a, 2, "rw")) Py_RETURN_NONE;
    const Py_buffer *z = &s.a[0].view;
    int fits = z->ndim == 2 && s.a[0].size > 0 && same_shape(&s.a[0], &s.a[1]) &&
               borrow_integers(args[1], &labels, z->shape[0], 8);
    if (fits) {
        s.labels = labels.buf;
        s.rows = z->shape[0];
        s.n = z->shape[1];
        for (Py_ssize_t i = 0; i < s.rows; i++) fits &= s.labels[i] >= 0 && s.labels[i] < s.n;
        /* An exponential costs as much as sixteen additions, so rows are shared out earlier. */
        if (fits) run_over(s.a[0].size * 16, FOR(s.a[0], softmax_part), &s);
        PyBuffer_Release(&labels);
    }
    give_back(s.a, 2);
    if (!fits) Py_RETURN_NONE;
    double sum = 0.0;
    for (int i = 0; i < MAX_THREADS; i++) sum += s.sums[i];
    return PyFloat_FromDouble(sum);
}

static PyObject *py_probabilities(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Reals a[2];
    if (n_args != 2) return PyErr_Format(PyExc_TypeError, "probabilities takes logits, p");
    if (!borrow(args, a, 2, "rw")) Py_RETURN_NONE;
    int fits = a[0].view.ndim == 2 && a[0].size > 0 && same_shape(&a[0], &a[1]);
    if (fits) run_over(a[0].size * 16, FOR(a[0], probabilities_part), a);
    give_back(a, 2);
    return answer(fits);
}

/* ---- products of a sparse matrix ---- */

static PyObject *py_sparse(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    if (n_args != 8)
        return PyErr_Format(PyExc_TypeError,
                            "sparse takes data, indices, indptr, W, out, bias, relu, transposed");
    PyObject *arrays[4] = {args[0], args[3], args[4], args[5]};
    int backward = PyObject_IsTrue(args[7]);
    Sparse s = {.n_arrays = args[5] == Py_None ? 3 : 4, .relu = PyObject_IsTrue(args[6])};
    Py_buffer columns, starts;
    if (!borrow(arrays, s.a, s.n_arrays, "rrwr")) Py_RETURN_NONE;
    const Py_buffer *W = &s.a[1].view, *out = &s.a[2].view;
    Py_ssize_t size = s.a[0].size;
    int fits = s.a[0].view.ndim == 1 && W->ndim == 2 && is_matrix(&s.a[2], W->shape[1]) &&
               (s.n_arrays == 3 || is_row(&s.a[3], W->shape[1])) &&
               borrow_integers(args[1], &columns, size, 4);
    if (fits) {
        s.rows = backward ? W->shape[0] : out->shape[0];
        s.columns = columns.buf;
        if ((fits = borrow_integers(args[2], &starts, s.rows + 1, 4))) {
            s.starts = starts.buf;
            run_over(size * W->shape[1] + s.a[2].size,
                     backward ? FOR(s.a[0], sparse_backward_part) : FOR(s.a[0], sparse_part), &s);
            fits = !s.wrong;
            PyBuffer_Release(&starts);
        }
        PyBuffer_Release(&columns);
    }
    give_back(s.a, s.n_arrays);
    return answer(fits);
}

/* ---- the update ---- */

/* Run a step on n_arrays arrays, p, g and averages, with the settings that follow them. */
static PyObject *update(PyObject *const *args, Update *u, int n_arrays, int n_settings,
                        Task step_float, Task step_double) {
    for (int i = 0; i < n_settings; i++) {
        double value = PyFloat_AsDouble(args[n_arrays + i]);
        if (value == -1.0 && PyErr_Occurred()) return NULL;
        u->settings[i] = value;
    }
    if (!borrow(args, u->a, n_arrays, "wrww")) Py_RETURN_NONE;
    int fits = 1;
    for (int i = 0; i < n_arrays; i++) fits &= is_row(&u->a[i], u->a[0].size);
    if (fits) run_over(u->a[0].size, FOR(u->a[0], step), u);
    give_back(u->a, n_arrays);
    if (!fits) Py_RETURN_NONE;
    return PyBool_FromLong(are_zeros(u->sums));
}

static PyObject *py_sgd(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Update u = {.sums = {0}};
    if (n_args != 8)
        return PyErr_Format(PyExc_TypeError,
                            "sgd takes p, g, v, rate, momentum, decay, scale, nesterov");
    return update(args, &u, 3, 5, sgd_part_float, sgd_part_double);
}

static PyObject *py_adam(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Update u = {.sums = {0}};
    if (n_args != 13)
        return PyErr_Format(PyExc_TypeError, "adam takes p, g, m, v, rate, beta1, beta2, eps, "
                                             "decay, scale, shrink, 1 - beta1, 1 - beta2");
    return update(args, &u, 4, 9, adam_part_float, adam_part_double);
}

/* ---- products ---- */

/* The CBLAS interface, with sizes of 64 bits (NumPy's wheels) or of 32 (most other libraries). */
#define GEMM(name, number, size)                                                               \
    typedef void (*name)(int order, int trans_a, int trans_b, size m, size n, size k,          \
                         number alpha, const number *a, size lda, const number *b, size ldb,   \
                         number beta, number *c, size ldc)
GEMM(Sgemm, float, int64_t);
GEMM(Dgemm, double, int64_t);
GEMM(NarrowSgemm, float, int32_t);
GEMM(NarrowDgemm, double, int32_t);
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

static void *sgemm, *dgemm;
static int narrow; /* whether their sizes have 32 bits */
static int (*blas_threads)(void);
static void (*set_blas_threads)(int);

typedef struct {
    Py_buffer view;
    char *data;
    int64_t rows, columns, ld;
    int trans; /* whether memory holds it transposed */
} Matrix;

typedef struct {
    Matrix a, b, c;   /* all of floats, or all of doubles */
    const char *bias; /* NULL, or one number for each column of c */
    const char *mask; /* NULL, or what c is kept where it is above 0: contiguous, like c */
    int relu;         /* whether c becomes max(c, 0) */
} Product;

/* Borrow a matrix of floats or doubles whose rows or columns are contiguous; 0 where it is none. */
static int as_matrix(PyObject *object, Matrix *matrix, int writable) {
    int flags = PyBUF_STRIDED | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &matrix->view, flags)) {
        PyErr_Clear();
        return 0;
    }
    Py_buffer *view = &matrix->view;
    if (is_real(view) && view->ndim == 2) {
        const Py_ssize_t size = view->itemsize, *s = view->strides;
        matrix->data = view->buf;
        matrix->rows = view->shape[0];
        matrix->columns = view->shape[1];
        matrix->trans = s[1] != size;
        Py_ssize_t across = matrix->trans ? s[1] : s[0];
        int64_t inner = matrix->trans ? matrix->rows : matrix->columns;
        matrix->ld = across / size;
        if (s[matrix->trans ? 0 : 1] == size && across % size == 0 && matrix->ld >= inner &&
            inner > 0 && !(writable && matrix->trans))
            return 1;
    }
    PyBuffer_Release(view);
    return 0;
}

/* Whether the memory from the first to the last element of a meets that of c. */
static int mixed(const Matrix *a, const Matrix *c) {
    int64_t a_lines = a->trans ? a->columns : a->rows;
    return meet(a->data, a_lines * a->ld * a->view.itemsize, c->data,
                c->rows * c->ld * c->view.itemsize);
}

/* c = a @ b + beta * c, all of one number type. */
static void gemm(const Matrix *a, const void *from_a, const Matrix *b, const void *from_b,
                 const Matrix *c, void *to, int64_t m, int64_t n, int64_t k, float beta) {
    int trans_a = a->trans ? TRANS : NO_TRANS, trans_b = b->trans ? TRANS : NO_TRANS;
#define CALL(Gemm, function)                                                             \
    ((Gemm)function)(ROW_MAJOR, trans_a, trans_b, m, n, k, 1, from_a, a->ld, from_b, b->ld, \
                     beta, to, c->ld)
    if (c->view.itemsize == sizeof(float))
        narrow ? CALL(NarrowSgemm, sgemm) : CALL(Sgemm, sgemm);
    else
        narrow ? CALL(NarrowDgemm, dgemm) : CALL(Dgemm, dgemm);
#undef CALL
}

static char *at(const Matrix *m, int64_t row, int64_t column) {
    return m->data + (m->trans ? column * m->ld + row : row * m->ld + column) * m->view.itemsize;
}

static void product_part(const void *arguments, int part, int parts) {
    const Product *p = arguments;
    const Matrix *a = &p->a, *b = &p->b, *c = &p->c;
    const Py_ssize_t size = c->view.itemsize;
    int64_t m = c->rows, n = c->columns, k = a->columns;
    Py_ssize_t start, stop;
    /* Each part packs for itself what is not cut, so a long wide product is cut by columns. */
    int by_rows = n < 4 * m || k < 32;
    bounds(by_rows ? m : n, part, parts, &start, &stop);
    if (start == stop) return;
    int64_t row = by_rows ? start : 0, column = by_rows ? 0 : start;
    int64_t rows = by_rows ? stop - start : m, columns = by_rows ? n : stop - start;
    /* What BLAS adds to may as well be the bias: otherwise it would fill c with zeros first. */
    if (p->bias)
        for (int64_t i = 0; i < rows; i++)
            memcpy(at(c, row + i, column), p->bias + column * size, columns * size);
    void *to = at(c, row, column), *from_b = at(b, 0, column);
    if (m > 1) {
        gemm(a, at(a, row, 0), b, from_b, c, to, rows, columns, k, p->bias ? 1.0f : 0.0f);
    } else {
        int64_t apart = a->trans ? a->ld : 1;
        if (!p->bias) memset(to, 0, columns * size);
        if (size == sizeof(float))
            add_row_times_float((float *)a->data, apart, from_b, b->ld, to, k, columns);
        else
            add_row_times_double((double *)a->data, apart, from_b, b->ld, to, k, columns);
    }
    /* While this part is in the cache. */
    for (int64_t i = row; i < row + rows && (p->relu || p->mask); i++) {
        void *y = at(c, i, column);
        const void *mask = p->mask ? p->mask + (i * n + column) * size : NULL;
        if (p->relu) size == sizeof(float) ? relu_float(y, y, columns) : relu_double(y, y, columns);
        if (mask)
            size == sizeof(float) ? masked_float(y, mask, y, columns)
                                  : masked_double(y, mask, y, columns);
    }
}

/* Borrow a bias, (columns of c,), or a mask of the shape of c; 0 if it is something else. */
static int borrow_beside(PyObject *object, const Matrix *c, int ndim, Py_buffer *view,
                         const char **data) {
    *data = NULL;
    if (object == Py_None) return 1;
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)) {
        PyErr_Clear();
        return 0;
    }
    if (!strcmp(view->format, c->view.format) && view->ndim == ndim &&
        view->shape[ndim - 1] == c->columns && (ndim == 1 || view->shape[0] == c->rows) &&
        !meet(view->buf, view->len, c->data, c->rows * c->ld * c->view.itemsize)) {
        *data = view->buf;
        return 1;
    }
    PyBuffer_Release(view);
    return 0;
}

static int fits_narrow(const Matrix *m) {
    return m->rows <= INT32_MAX && m->columns <= INT32_MAX && m->ld <= INT32_MAX;
}

static int multiply(Product *p, PyObject *bias, PyObject *mask) {
    const Matrix *a = &p->a, *b = &p->b, *c = &p->c;
    const char *format = c->view.format;
    Py_buffer bias_view, mask_view;
    if (a->rows != c->rows || b->columns != c->columns || a->columns != b->rows) return 0;
    /* A product with a single row or column is no gemm. NumPy has a fast way for the other ones. */
    if (c->rows == 0 || (c->rows == 1 ? b->trans : c->columns == 1)) return 0;
    if (strcmp(a->view.format, format) || strcmp(b->view.format, format)) return 0;
    if (mixed(a, c) || mixed(b, c)) return 0;
    if (narrow && !(fits_narrow(a) && fits_narrow(b) && fits_narrow(c))) return 0;
    if (!borrow_beside(bias, c, 1, &bias_view, &p->bias)) return 0;
    int fits = borrow_beside(mask, c, 2, &mask_view, &p->mask);
    /* Somebody else in this process may have changed the number since it was set. */
    if (n_threads && blas_threads() != 1) set_blas_threads(1);
    if (fits && (double)c->rows * (double)a->columns * (double)c->columns < LONG_PRODUCT) {
        product_part(p, 0, 1);
    } else if (fits) {
        Py_BEGIN_ALLOW_THREADS
        run(product_part, p, parts_of_a_task());
        Py_END_ALLOW_THREADS
    }
    if (fits && p->mask) PyBuffer_Release(&mask_view);
    if (p->bias) PyBuffer_Release(&bias_view);
    return fits;
}

static PyObject *py_matmul(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Product p;
    int done = 0;
    if (n_args != 6)
        return PyErr_Format(PyExc_TypeError, "matmul takes a, b, out, bias, mask, relu");
    if (sgemm == NULL) Py_RETURN_NONE;
    p.relu = PyObject_IsTrue(args[5]);
    if (as_matrix(args[0], &p.a, 0)) {
        if (as_matrix(args[1], &p.b, 0)) {
            if (as_matrix(args[2], &p.c, 1)) {
                done = multiply(&p, args[3], args[4]);
                PyBuffer_Release(&p.c.view);
            }
            PyBuffer_Release(&p.b.view);
        }
        PyBuffer_Release(&p.a.view);
    }
    return answer(done);
}

static PyObject *py_use_blas(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    void *addresses[4];
    if (n_args != 5) return PyErr_Format(PyExc_TypeError, "use_blas takes four addresses, narrow");
    for (int i = 0; i < 4; i++) addresses[i] = PyLong_AsVoidPtr(args[i]);
    narrow = PyObject_IsTrue(args[4]);
    if (PyErr_Occurred()) return NULL;
    sgemm = addresses[0];
    dgemm = addresses[1];
    blas_threads = (int (*)(void))addresses[2];
    set_blas_threads = (void (*)(int))addresses[3];
    Py_RETURN_NONE;
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static PyMethodDef methods[] = {
    {"threads", py_threads, METH_NOARGS, "threads(): those of this Python thread"},
    {"set_threads", py_set_threads, METH_O,
     "set_threads(n): for this Python thread; 0: none asked for"},
    {"use_blas", FAST(py_use_blas),
     "use_blas(addresses of sgemm, dgemm, get and set the number of threads; whether sizes have "
     "32 bits)"},
    {"matmul", FAST(py_matmul), 
     "matmul(a, b, out, bias, mask, relu): out = a @ b + bias, where mask > 0, above 0"},
    {"relu", FAST(py_relu), "relu(x, y): y = max(x, 0)"},
    {"relu_backward", FAST(py_relu_backward), "relu_backward(dy, y, dx): dx = dy where y > 0"},
    {"finite", py_finite, METH_O, "finite(x): whether all of x is finite"},
    {"sum_rows", FAST(py_sum_rows), "sum_rows(x, sums): sums = the sum of the rows of x"},
    {"batch_norm", FAST(py_batch_norm),
     "batch_norm(x, gamma, beta, x_hat, y, stats, eps): y = gamma * x_hat + beta"},
    {"batch_norm_backward", FAST(py_batch_norm_backward),
     "batch_norm_backward(dy, x_hat, r, gamma, dx, dgamma, dbeta)"},
    {"take_rows", FAST(py_take_rows), "take_rows(X, rows, out): out = X[rows]"},
    {"softmax", FAST(py_softmax),
     "softmax(logits, labels, dlogits, smoothing, share): the sum of the losses"},
    {"probabilities", FAST(py_probabilities),
     "probabilities(logits, p): p = exp(logits) / the sum of its row"},
    {"sparse", FAST(py_sparse),
     "sparse(data, indices, indptr, W, out, bias, relu, False): out = x @ W + bias, above 0, for x "
     "in CSR; sparse(data, indices, indptr, dy, dW, None, False, True): dW = x.T @ dy"},
    {"sgd", FAST(py_sgd),
     "sgd(p, g, v, rate, momentum, decay, scale, nesterov): one step; whether p is finite"},
    {"adam", FAST(py_adam), "adam(p, g, m, v, rate, beta1, beta2, eps, decay, scale, shrink, "
     "1 - beta1, 1 - beta2): likewise"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernels", "Threads and single passes.", -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) {
    PyObject *created = PyModule_Create(&module);
    if (created == NULL || PyModule_AddIntConstant(created, "VERSION", 6)) return NULL;
    pthread_atfork(wait_for_tasks, go_on, forget_threads);
    return created;
}
