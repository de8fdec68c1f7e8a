/* The work of a training step on several threads, and in single passes over memory: see kernels.py,
 * which holds the reference for each function in NumPy and says why.
 *
 * A function returns None, and has done nothing, for arrays that it is not made for. Work is cut
 * into as many parts as there are threads; the cut depends on the sizes alone, so the bits of a
 * result depend on the number of threads (products, the losses) or on nothing (all else),
 * never on timing. Each Python thread has a number of its own; all share one crew. No
 * multiplication is contracted with an addition, so elementwise results have NumPy's bits.
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
#include <tgmath.h> /* sqrt, log and log1p of either type */

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

typedef struct Work Work;
typedef void (*Task)(Work *work, int part, int parts);

/* Parts of the next task of this Python thread; 0 where it has asked for no number. */
static _Thread_local int n_threads = 0;
static int n_started = 1; /* threads there are, the caller's included */
static Task task;
static Work *task_work;
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

static void wake(pthread_cond_t *who_waits) {
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(who_waits);
    pthread_mutex_unlock(&mutex);
}

/* Run parts of the present task until none is left. Each thread begins with the part of its own
 * number, whose rows it is likely to have in its cache, and then takes what is left: a thread that
 * another process keeps off its core holds up nobody. */
static void take_parts(int me) {
    unsigned seen = atomic_load(&offer);
    while (seen) {
        int part = seen >> me & 1 ? me : __builtin_ctz(seen);
        if (!atomic_compare_exchange_weak(&offer, &seen, seen & ~(1u << part))) continue;
        /* With a part in hand, the task stays the present one until that part is finished. */
        task(task_work, part, task_parts);
        if (atomic_fetch_sub(&n_unfinished, 1) == 1 && atomic_load(&caller_asleep)) wake(&is_done);
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
    for (pthread_t thread; n_started < wanted; n_started++) {
        if (pthread_create(&thread, NULL, help, (void *)(intptr_t)n_started)) break;
        pthread_detach(thread);
    }
}

static void run_with_crew(Task function, Work *work, int parts) {
    start_threads(parts); /* where they are not there yet: a forked child has none */
    task = function;
    task_work = work;
    task_parts = parts;
    atomic_store(&n_unfinished, parts);
    atomic_store(&offer, ~0u >> (MAX_THREADS - parts));
    if (atomic_load(&n_asleep)) wake(&has_work);
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
static void run(Task function, Work *work, int parts) {
    pthread_rwlock_rdlock(&no_fork);
    if (parts > 1 && !atomic_flag_test_and_set(&in_use)) {
        run_with_crew(function, work, parts);
        atomic_flag_clear(&in_use);
    } else {
        /* Another thread has the crew: the parts are the same, one after the other. */
        for (int part = 0; part < parts; part++) function(work, part, parts);
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
    Py_buffer view;
    void *data;                /* NULL where None was given */
    Py_ssize_t size, span;     /* elements; bytes from the first to the last one */
    int64_t rows, columns, ld; /* of a matrix, and the elements from one line to the next */
    int trans;                 /* whether memory holds the matrix transposed */
    int written;
    int input; /* of a recording: 1 or 2 where it is x or y */
} Array;

/* Whether two stretches of memory share a byte. */
static int meet(const Array *a, const Array *b) {
    const char *from_a = a->data, *from_b = b->data;
    return from_a < from_b + b->span && from_b < from_a + a->span;
}

static int same_shape(const Array *a, const Array *b) {
    int same = a->view.ndim == b->view.ndim;
    for (int i = 0; same && i < a->view.ndim; i++) same = a->view.shape[i] == b->view.shape[i];
    return same;
}

static int is_row(const Array *a, Py_ssize_t n) { return a->view.ndim == 1 && a->size == n; }

static int is_matrix(const Array *a, Py_ssize_t columns) {
    return a->view.ndim == 2 && a->view.shape[1] == columns;
}

static int is_real(const Py_buffer *view) {
    return !strcmp(view->format, "f") || !strcmp(view->format, "d");
}

/* Whether the rows or the columns of a matrix are contiguous: then note how it lies in memory. */
static int has_lines(Array *m) {
    const Py_ssize_t size = m->view.itemsize, *s = m->view.strides;
    if (m->view.ndim != 2) return 0;
    m->rows = m->view.shape[0];
    m->columns = m->view.shape[1];
    m->trans = s[1] != size;
    Py_ssize_t across = m->trans ? s[1] : s[0];
    int64_t inner = m->trans ? m->rows : m->columns;
    m->ld = across / size;
    m->span = across * (m->trans ? m->columns : m->rows);
    return s[m->trans ? 0 : 1] == size && across % size == 0 && m->ld >= inner && inner > 0 &&
           !(m->written && m->trans);
}

/* Borrow the memory of an argument of some kind, see Kernel; 0 where it is something else. */
static int borrow(PyObject *object, char kind, Array *array) {
    const int strided = kind == 'm' || kind == 'M', bytes = kind == 'i' ? 8 : kind == 'j' ? 4 : 0;
    Py_buffer *view = &array->view;
    array->data = view->obj = NULL;
    array->size = array->span = array->input = 0;
    array->written = kind == 'w' || kind == 'M';
    if (kind == 'o' && object == Py_None) return 1;
    int flags = PyBUF_FORMAT | (strided ? PyBUF_STRIDES : PyBUF_C_CONTIGUOUS) |
                (array->written ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, view, flags)) {
        PyErr_Clear();
        return 0;
    }
    array->span = view->len;
    int fits = kind == 'b' ? view->itemsize > 0 : is_real(view) && (!strided || has_lines(array));
    if (bytes) fits = view->itemsize == bytes && strchr("ilq", *view->format) && view->ndim == 1;
    if (fits) {
        array->data = view->buf;
        array->size = view->len / view->itemsize;
    } else {
        PyBuffer_Release(view);
    }
    return fits;
}

/* An element of an array that another Python thread may change at any time, read once: who has
 * checked it has checked what is used. */
#define READ_ONCE(element) __atomic_load_n(element, __ATOMIC_RELAXED)

/* The bounds of one part of n elements, cut where a cache line ends. */
static void bounds(Py_ssize_t n, int part, int parts, Py_ssize_t *start, Py_ssize_t *stop) {
    *start = part == 0 ? 0 : n * part / parts / 16 * 16;
    *stop = part == parts - 1 ? n : n * (part + 1) / parts / 16 * 16;
}

/* ---- kernels ---- */

enum { MOST_ARRAYS = 7, MOST_SETTINGS = 9, MOST_WORKS = 64, NO = -1 };

/* kinds: a letter for each argument. r: an array that is read, w: written, o: read, or None; m: a
 * matrix that is read, M: written, whose rows or columns are contiguous; i: integers of 64 bits in
 * a row, j: of 32 bits; b: an array of anything; d: a number. Arrays of the first five are all of
 * floats or all of doubles. What is written shares no memory with anything else.
 * length: elements, or what takes as long; NO where the arrays do not fit.
 * answers: what Python is told. DONE: True, or None where a sum of a part is not 0. FINITE: whether
 * all sums are 0. SUM: their sum. */
typedef struct {
    const char *name, *kinds;
    Py_ssize_t (*length)(const Work *work);
    Task part_float, part_double;
    enum { DONE, FINITE, SUM } answers;
} Kernel;

/* A call of a kernel. */
struct Work {
    Array a[MOST_ARRAYS];           /* the arrays in the order of the arguments */
    double settings[MOST_SETTINGS]; /* the numbers likewise */
    double sums[MAX_THREADS];       /* what each part has to tell: see Kernel */
    Py_ssize_t length;
    int n_arrays;
    const Kernel *kernel;
};

/* Take the arguments of a kernel; 0 where they are none of its kinds, -1 after an exception. */
static int take(Work *work, PyObject *const *args) {
    double *setting = work->settings;
    work->n_arrays = 0;
    for (const char *kind = work->kernel->kinds; *kind; kind++, args++) {
        if (*kind == 'd') {
            *setting = PyFloat_AsDouble(*args);
            if (*setting++ == -1.0 && PyErr_Occurred()) return -1;
            continue;
        }
        Array *a = &work->a[work->n_arrays];
        if (!borrow(*args, *kind, a)) return 0;
        work->n_arrays++;
        if (a->data && is_real(&a->view) && a->view.itemsize != work->a[0].view.itemsize) return 0;
        for (const Array *b = work->a; b < a; b++)
            if ((a->written || b->written) && meet(a, b)) return 0;
    }
    return 1;
}

static void give_back(Work *work) {
    for (int i = 0; i < work->n_arrays; i++) PyBuffer_Release(&work->a[i].view);
}

/* Run all parts; return the sum of what they have to tell. */
static double run_work(Work *work) {
    const int is_float = work->a[0].view.itemsize == sizeof(float);
    Task part = is_float ? work->kernel->part_float : work->kernel->part_double;
    int parts = work->length <= LONG || !n_threads ? 1 : n_threads;
    memset(work->sums, 0, parts * sizeof(double));
    if (work->length <= LONG) {
        part(work, 0, 1);
    } else {
        Py_BEGIN_ALLOW_THREADS
        run(part, work, parts);
        Py_END_ALLOW_THREADS
    }
    double sum = 0.0;
    for (int i = 0; i < parts; i++) sum += work->sums[i];
    return sum;
}

/* ---- steps that are run again ---- */

/* The kernels of one training step, to be run again without Python between them. In a training loop
 * their arrays are the same ones in each step, but for the batch: they are checked once and held so
 * that nobody frees or resizes them. That takes a third off a step of 64-32-10 with 32 rows. */
typedef struct {
    Work works[MOST_WORKS];
    Work batch; /* x, y */
    int n_works, failed, busy;
} Recording;

static const char CAPSULE[] = "minidl._kernels.recording";
static const Kernel a_batch = {"a batch", "rb", NULL, NULL, NULL, DONE};
static _Thread_local Recording *recording; /* what this Python thread records now */

static void forget(Recording *r) {
    for (int i = 0; r && i < r->n_works; i++) give_back(&r->works[i]);
    if (r) give_back(&r->batch);
    PyMem_Free(r);
}

static void forget_capsule(PyObject *capsule) { forget(PyCapsule_GetPointer(capsule, CAPSULE)); }

static PyObject *py_record(PyObject *self, PyObject *nothing) {
    forget(recording);
    recording = PyMem_Calloc(1, sizeof(Recording));
    if (recording == NULL) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* End a recording. It is of use where all was done here, with x and with y, which lie apart. */
static PyObject *py_recorded(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Recording *r = recording;
    int n_read[2] = {0}, n_losses = 0;
    if (n_args != 2) return PyErr_Format(PyExc_TypeError, "recorded takes x, y");
    if (r == NULL) Py_RETURN_NONE;
    recording = NULL;
    r->batch.kernel = &a_batch;
    int fits = take(&r->batch, args) == 1 && !r->failed && !meet(&r->batch.a[0], &r->batch.a[1]);
    for (Work *w = r->works; fits && w < r->works + r->n_works; w++) {
        n_losses += w->kernel->answers == SUM;
        for (Array *a = w->a; a < w->a + w->n_arrays; a++)
            for (int i = 0; i < 2; i++)
                if (a->data == r->batch.a[i].data) {
                    fits &= !a->written && a->span == r->batch.a[i].span;
                    a->input = i + 1;
                    n_read[i]++;
                }
    }
    if (fits && n_read[0] && n_read[1] && n_losses == 1)
        return PyCapsule_New(r, CAPSULE, forget_capsule);
    forget(r);
    Py_RETURN_NONE;
}

static PyObject *py_replay(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Work batch;
    batch.kernel = &a_batch;
    if (n_args != 3) return PyErr_Format(PyExc_TypeError, "replay takes a recording, x, y");
    Recording *r = PyCapsule_GetPointer(args[0], CAPSULE);
    if (r == NULL) return NULL;
    double loss = 0.0;
    int fits = take(&batch, args + 1) == 1 && !r->busy;
    for (int i = 0; fits && i < 2; i++)
        fits = same_shape(&batch.a[i], &r->batch.a[i]) &&
               !strcmp(batch.a[i].view.format, r->batch.a[i].view.format);
    Work *end = r->works + r->n_works;
    for (Work *w = r->works; fits && w < end; w++) {
        for (Array *a = w->a; a < w->a + w->n_arrays; a++)
            if (a->input) a->data = batch.a[a->input - 1].data;
        fits = w->kernel->length(w) != NO; /* labels may be wrong */
    }
    if (fits) {
        r->busy = 1; /* other Python threads may run meanwhile */
        for (Work *w = r->works; w < end; w++) {
            double sum = run_work(w);
            if (w->kernel->answers == SUM) loss = sum * w->settings[0];
        }
        r->busy = 0;
    }
    give_back(&batch);
    if (!fits) Py_RETURN_NONE;
    return PyFloat_FromDouble(loss);
}

/* What Python calls. */
static PyObject *call(const Kernel *kernel, PyObject *const *args, Py_ssize_t n_args) {
    Work work;
    work.kernel = kernel;
    Py_ssize_t expected = (Py_ssize_t)strlen(kernel->kinds);
    if (n_args != expected)
        return PyErr_Format(PyExc_TypeError, "%s takes %zd arguments", kernel->name, expected);
    int taken = take(&work, args);
    double sum = 0.0;
    int done = taken == 1 && (work.length = kernel->length(&work)) != NO;
    if (done) sum = run_work(&work);
    if (kernel->answers == DONE) done &= sum == 0.0;
    if (recording && done && recording->n_works < MOST_WORKS) {
        recording->works[recording->n_works++] = work;
    } else {
        give_back(&work);
        if (recording) recording->failed = 1;
    }
    if (taken < 0) return NULL;
    if (!done) Py_RETURN_NONE;
    return kernel->answers == SUM ? PyFloat_FromDouble(sum) : PyBool_FromLong(sum == 0.0);
}

#define KERNEL(name, length, kinds, part_float, part_double, answers)                        \
    static PyObject *py_##name(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {   \
        static const Kernel kernel = {#name, kinds, length, part_float, part_double, answers}; \
        return call(&kernel, args, n_args);                                                  \
    }
#define TYPED_KERNEL(name, length, kinds, answers) \
    KERNEL(name, length, kinds, name##_part_float, name##_part_double, answers)

/* ---- passes over memory, for floats and for doubles ---- */

#define BLOCK 64 /* columns at a time: the sums stay in registers, the rows in the cache */
#define ROWS 16  /* likewise, where a row may be shorter than a vector */
#define LANES 32 /* two of the widest vectors, so that no addition waits for the one before it */
#define AN_EXPONENTIAL 16 /* additions that take as long */
#define AT_ONCE 65536 /* elements whose sum is kept in the type of the array */

/* exp(x) - less for x <= 0 to within 2 units in the last place, NaN for NaN; less: 0 or 1. 2**n
 * times a polynomial in the rest, as in Cephes by S. L. Moshier. Below -87, exp(x) is 0. GCC makes
 * vectors of this as long as no part is calculated for one case only: hence the forms of the
 * choices, and -fno-tree-pre. */
static inline float exp_less_float(float x, float less) {
    float c = x > -87.0f ? x : -87.0f; /* NaN has no place in an exponent */
    float n = (float)(int)(c * 1.44269504f - 0.5f);
    float r = c - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r; /* exp(r) - 1 */
    int32_t bits = x < -87.0f ? 0 : ((int32_t)n + 127) << 23;
    float power = (union { int32_t bits; float number; }){bits}.number;
    return p * power + (power - less) + (x != x ? x : 0.0f);
}

/* Likewise, down to -708: 1 + 2 x P / (Q - x P), with polynomials P and Q in x**2. */
static inline double exp_less_double(double x, double less) {
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
    int64_t bits = x < -708.0 ? 0 : ((int64_t)(int)n + 1023) << 52;
    double power = (union { int64_t bits; double number; }){bits}.number;
    return 2.0 * p / (q - p) * power + (power - less) + (x != x ? x : 0.0);
}

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 }; /* CBLAS's names for them */
static int narrow; /* whether the sizes of its matrices have 32 bits */
static int (*blas_threads)(void);
static void (*set_blas_threads)(int);

#define REAL float
#define TYPED(name) name##_float
#include "_passes.h"
#undef REAL
#undef TYPED
#define REAL double
#define TYPED(name) name##_double
#include "_passes.h"

/* ---- elementwise, and the update ---- */

static Py_ssize_t alike_length(const Work *w) {
    int fits = 1;
    for (int i = 1; i < w->n_arrays; i++) fits &= same_shape(&w->a[i], &w->a[0]);
    return fits ? w->a[0].size : NO;
}
static Py_ssize_t costly_length(const Work *w) {
    return alike_length(w) == NO ? NO : alike_length(w) * AN_EXPONENTIAL;
}
TYPED_KERNEL(relu, alike_length, "rw", DONE)
TYPED_KERNEL(relu_backward, alike_length, "rrw", DONE)
TYPED_KERNEL(sigmoid, costly_length, "rw", DONE)
TYPED_KERNEL(sigmoid_backward, alike_length, "rrw", DONE)
TYPED_KERNEL(tanh, costly_length, "rw", DONE)
TYPED_KERNEL(tanh_backward, alike_length, "rrw", DONE)
TYPED_KERNEL(silu, costly_length, "rw", DONE)
TYPED_KERNEL(silu_backward, costly_length, "rrw", DONE)
TYPED_KERNEL(finite, alike_length, "r", FINITE)
TYPED_KERNEL(add_l2, alike_length, "wrd", SUM)
TYPED_KERNEL(sgd, alike_length, "wrwddddd", FINITE)
TYPED_KERNEL(adam, alike_length, "wrwwddddddddd", FINITE)

static Py_ssize_t sum_rows_length(const Work *w) {
    Py_ssize_t n = w->a[1].size;
    return n > 0 && is_row(&w->a[1], n) && is_matrix(&w->a[0], n) ? w->a[0].size : NO;
}
TYPED_KERNEL(sum_rows, sum_rows_length, "rw", DONE)

/* ---- batch normalization ---- */

static Py_ssize_t batch_norm_length(const Work *w) {
    const Array *x = &w->a[0], *stats = &w->a[5];
    Py_ssize_t n = w->a[1].size;
    int fits = x->size > 0 && is_matrix(x, n) && is_row(&w->a[1], n) && is_row(&w->a[2], n) &&
               same_shape(&w->a[3], x) && same_shape(&w->a[4], x) && is_matrix(stats, n) &&
               stats->size == 3 * n;
    return fits ? x->size : NO;
}
TYPED_KERNEL(batch_norm, batch_norm_length, "rrrwwwd", DONE)

static Py_ssize_t batch_norm_backward_length(const Work *w) {
    const Array *dy = &w->a[0];
    Py_ssize_t n = w->a[2].size;
    int fits = dy->size > 0 && is_matrix(dy, n) && same_shape(&w->a[1], dy) &&
               is_row(&w->a[2], n) && is_row(&w->a[3], n) && same_shape(&w->a[4], dy) &&
               is_row(&w->a[5], n) && is_row(&w->a[6], n);
    return fits ? dy->size : NO;
}
TYPED_KERNEL(batch_norm_backward, batch_norm_backward_length, "rrrrwww", DONE)

/* ---- gathering rows ---- */

static void take_rows_part(Work *w, int part, int parts) {
    const Array *a = w->a;
    const char *X = a[0].data;
    char *out = a[2].data;
    const int64_t *rows = a[1].data, n_samples = a[0].view.shape[0];
    Py_ssize_t n = a[0].view.shape[1] * a[0].view.itemsize; /* bytes of a row */
    Py_ssize_t start = a[1].size * part / parts, stop = a[1].size * (part + 1) / parts;
    Py_ssize_t ahead = 1 + 4096 / (n + 4);
    for (Py_ssize_t i = start; i < stop; i++) {
        /* The rows lie anywhere: unless they are asked for in time, each is waited for. The second
         * cache (2) takes more requests at once than the first: half of the time on Zen 4. */
        if (i + ahead < stop)
            for (Py_ssize_t j = 0; j < n; j += 64)
                __builtin_prefetch(X + rows[i + ahead] * n + j, 0, 2);
        int64_t row = READ_ONCE(rows + i);
        if (row >= 0 && row < n_samples) memcpy(out + i * n, X + row * n, n);
    }
}

/* Whether all integers are in [0, n). */
static int are_below(const Array *integers, Py_ssize_t n) {
    const int64_t *values = integers->data;
    int fits = 1;
    for (Py_ssize_t i = 0; i < integers->size; i++) fits &= values[i] >= 0 && values[i] < n;
    return fits;
}

static Py_ssize_t take_rows_length(const Work *w) {
    const Py_buffer *X = &w->a[0].view, *out = &w->a[2].view;
    int fits = X->ndim == 2 && out->ndim == 2 && X->shape[1] == out->shape[1] &&
               is_row(&w->a[1], out->shape[0]) && are_below(&w->a[1], X->shape[0]);
    return fits ? w->a[2].size : NO;
}
KERNEL(take_rows, take_rows_length, "riw", take_rows_part, take_rows_part, DONE)

/* ---- cross-entropy ---- */

static Py_ssize_t softmax_length(const Work *w) {
    const Array *z = &w->a[0];
    int fits = z->view.ndim == 2 && z->size > 0 && same_shape(z, &w->a[2]) &&
               is_row(&w->a[1], z->view.shape[0]) && are_below(&w->a[1], z->view.shape[1]);
    return fits ? z->size * AN_EXPONENTIAL : NO;
}
TYPED_KERNEL(softmax, softmax_length, "riwdd", SUM)
TYPED_KERNEL(sigmoid_loss, costly_length, "rrwd", SUM)

static Py_ssize_t probabilities_length(const Work *w) {
    return w->a[0].view.ndim == 2 && w->a[0].size > 0 ? costly_length(w) : NO;
}
TYPED_KERNEL(probabilities, probabilities_length, "rw", DONE)

/* ---- products of a sparse matrix ---- */

static Py_ssize_t sparse_length(const Work *w) {
    const Array *numbers = &w->a[0], *from = &w->a[3], *into = &w->a[4], *bias = &w->a[5];
    const int backward = w->n_arrays == 5;
    if (numbers->view.ndim != 1 || from->view.ndim != 2) return NO;
    Py_ssize_t n = from->view.shape[1];
    int fits = is_matrix(into, n) && (backward || !bias->data || is_row(bias, n)) &&
               is_row(&w->a[1], numbers->size) &&
               is_row(&w->a[2], (backward ? from : into)->view.shape[0] + 1);
    return fits ? numbers->size * n + into->size : NO;
}
TYPED_KERNEL(sparse, sparse_length, "rjjrwod", DONE)
TYPED_KERNEL(sparse_gradient, sparse_length, "rjjrw", DONE)

/* ---- products ---- */

static Py_ssize_t matmul_length(const Work *w) {
    const Array *a = &w->a[0], *b = &w->a[1], *c = &w->a[2], *bias = &w->a[3], *mask = &w->a[4];
    if (gemm_float == NULL) return NO;
    if (a->rows != c->rows || b->columns != c->columns || a->columns != b->rows) return NO;
    /* A product with a single row is no gemm. NumPy has a fast way where b is transposed. */
    if (c->rows == 0 || (c->rows == 1 && b->trans)) return NO;
    if ((bias->data && !is_row(bias, c->columns)) || (mask->data && !same_shape(mask, c)))
        return NO;
    for (const Array *m = a; narrow && m <= c; m++)
        if (m->rows > INT32_MAX || m->columns > INT32_MAX || m->ld > INT32_MAX) return NO;
    /* Somebody else in this process may have changed the number since it was set. */
    if (n_threads && blas_threads() != 1) set_blas_threads(1);
    double size = (double)c->rows * (double)a->columns * (double)c->columns;
    return size < LONG_PRODUCT ? 0 : LONG + 1;
}
TYPED_KERNEL(matmul, matmul_length, "mmMood", DONE)

static PyObject *py_use_blas(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    void *addresses[6];
    if (n_args != 7) return PyErr_Format(PyExc_TypeError, "use_blas takes six addresses, narrow");
    for (int i = 0; i < 6; i++) addresses[i] = PyLong_AsVoidPtr(args[i]);
    narrow = PyObject_IsTrue(args[6]);
    if (PyErr_Occurred()) return NULL;
    gemm_float = addresses[0];
    gemm_double = addresses[1];
    gemv_float = addresses[2];
    gemv_double = addresses[3];
    blas_threads = (int (*)(void))addresses[4];
    set_blas_threads = (void (*)(int))addresses[5];
    Py_RETURN_NONE;
}

/* kernels.py says what each is for. */
#define FAST(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    {"threads", py_threads, METH_NOARGS, NULL},
    {"set_threads", py_set_threads, METH_O, NULL},
    {"record", py_record, METH_NOARGS, NULL},
    FAST(recorded), FAST(replay), FAST(use_blas),
    FAST(matmul), FAST(sum_rows), FAST(take_rows), FAST(finite),
    FAST(sparse), FAST(sparse_gradient),
    FAST(relu), FAST(relu_backward), FAST(sigmoid), FAST(sigmoid_backward),
    FAST(tanh), FAST(tanh_backward), FAST(silu), FAST(silu_backward),
    FAST(batch_norm), FAST(batch_norm_backward),
    FAST(softmax), FAST(sigmoid_loss), FAST(probabilities),
    FAST(add_l2), FAST(sgd), FAST(adam),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernels", "Threads and single passes.", -1, methods};

PyMODINIT_FUNC PyInit__kernels(void) {
    PyObject *created = PyModule_Create(&module);
    if (created == NULL || PyModule_AddIntConstant(created, "VERSION", 11)) return NULL;
    pthread_atfork(wait_for_tasks, go_on, forget_threads);
    return created;
}
