/* Single passes over memory for what NumPy does in several: see kernels.py, which holds the
 * reference for each in NumPy. All arrays are C-contiguous float32; a function returns None, and
 * has done nothing, for any other. No multiplication is contracted with an addition, so the
 * elementwise results have the same bits as NumPy's. The interpreter lock is released in arrays of
 * more than LONG elements. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>

#define LONG 16384

/* One build for all x86-64 machines that still uses the widest vectors of each. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTORISED
#endif

typedef struct {
    Py_buffer view;
    float *data;
    Py_ssize_t size; /* elements */
} Floats;

/* Borrow the memory of `object`; 0 if it is not contiguous float32 (or not writable as asked). */
static int borrow(PyObject *object, Floats *floats, int writable) {
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &floats->view, flags) != 0) {
        PyErr_Clear();
        return 0;
    }
    const char *format = floats->view.format;
    if (format == NULL || format[0] != 'f' || format[1] != 0) {
        PyBuffer_Release(&floats->view);
        return 0;
    }
    floats->data = floats->view.buf;
    floats->size = floats->view.len / (Py_ssize_t)sizeof(float);
    return 1;
}

static int borrow_all(PyObject *const *objects, Floats *floats, int n, const char *writable) {
    for (int i = 0; i < n; i++) {
        if (!borrow(objects[i], &floats[i], writable[i] == 'w')) {
            while (i-- > 0) PyBuffer_Release(&floats[i].view);
            return 0;
        }
    }
    return 1;
}

static void release_all(Floats *floats, int n) {
    for (int i = 0; i < n; i++) PyBuffer_Release(&floats[i].view);
}

#define WITHOUT_LOCK(size, call)                     \
    do {                                             \
        if ((size) > LONG) {                         \
            Py_BEGIN_ALLOW_THREADS call;             \
            Py_END_ALLOW_THREADS                     \
        } else {                                     \
            call;                                    \
        }                                            \
    } while (0)

VECTORISED static void relu_backward(const float *restrict dy, const float *restrict y,
                                     float *restrict dx, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
}

static PyObject *py_relu_backward(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Floats a[3];
    if (n_args != 3) return PyErr_Format(PyExc_TypeError, "relu_backward takes dy, y, dx");
    if (!borrow_all(args, a, 3, "rrw")) Py_RETURN_NONE;
    int fits = a[0].size == a[2].size && a[1].size == a[2].size;
    if (fits) WITHOUT_LOCK(a[2].size, relu_backward(a[0].data, a[1].data, a[2].data, a[2].size));
    release_all(a, 3);
    if (!fits) Py_RETURN_NONE;
    Py_RETURN_TRUE;
}

VECTORISED static float sgd(float *restrict p, const float *restrict g, float *restrict v,
                            Py_ssize_t n, float rate, float momentum, float decay, float scale,
                            int nesterov) {
    float lanes[16] = {0}; /* of a sum that is finite only where all parameters are */
    Py_ssize_t i = 0;
#define STEP(i, lane)                                        \
    {                                                        \
        float d = scale == 1.0f ? g[i] : g[i] * scale;       \
        if (decay != 0.0f) d = p[i] * decay + d;             \
        float w = v[i] * momentum + d;                       \
        v[i] = w;                                            \
        float s = nesterov ? (w * momentum + d) * rate : w * rate; \
        float q = p[i] - s;                                  \
        p[i] = q;                                            \
        lane += q * 0.0f;                                    \
    }
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++) STEP(i + k, lanes[k])
    for (; i < n; i++) STEP(i, lanes[0])
#undef STEP
    float sum = 0.0f;
    for (int k = 0; k < 16; k++) sum += lanes[k];
    return sum;
}

static PyObject *py_sgd(PyObject *self, PyObject *const *args, Py_ssize_t n_args) {
    Floats a[3];
    if (n_args != 8)
        return PyErr_Format(PyExc_TypeError,
                            "sgd takes p, g, v, rate, momentum, decay, scale, nesterov");
    double c[4];
    for (int i = 0; i < 4; i++) {
        c[i] = PyFloat_AsDouble(args[3 + i]);
        if (c[i] == -1.0 && PyErr_Occurred()) return NULL;
    }
    int nesterov = PyObject_IsTrue(args[7]);
    if (!borrow_all(args, a, 3, "wrw")) Py_RETURN_NONE;
    int fits = a[1].size == a[0].size && a[2].size == a[0].size;
    float sum = 0.0f;
    if (fits)
        WITHOUT_LOCK(a[0].size, sum = sgd(a[0].data, a[1].data, a[2].data, a[0].size, (float)c[0],
                                          (float)c[1], (float)c[2], (float)c[3], nesterov));
    release_all(a, 3);
    if (!fits) Py_RETURN_NONE;
    return PyBool_FromLong(sum == 0.0f);
}

static PyMethodDef methods[] = {
    {"relu_backward", (PyCFunction)(void (*)(void))py_relu_backward, METH_FASTCALL,
     "relu_backward(dy, y, dx): dx = dy where y > 0, else 0"},
    {"sgd", (PyCFunction)(void (*)(void))py_sgd, METH_FASTCALL,
     "sgd(p, g, v, rate, momentum, decay, scale, nesterov): one step; whether p is finite"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernels", "Single passes over memory.", -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&module); }
