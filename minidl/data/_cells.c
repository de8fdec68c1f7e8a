/* The cells of lines of text: numbers, and texts as places among the different ones of a column.
 *
 * `read` is made for lines that are written plainly: all have the same number of cells, quotes
 * stand around whole cells, and no cell holds the end of a line. It returns None, "not for me", for
 * others: textfiles.py reads those by Python's csv, and says what is wrong with them.
 *
 * A number is plain here where nobody could take it for a code: "01234" and "5E102" are texts. So
 * are numbers of more than 19 digits, and a few that are hard to round. What the texts of a column
 * mean is for Python to say, which sees each different one once.
 *
 * The interpreter's lock is released, so that two blocks can be read at a time. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers, rounded once, as Python's float does ---- */

__extension__ typedef unsigned __int128 Wide;

#define MOST_POWER 280       /* of 10: 19 digits times it are neither subnormal nor infinite */
#define MOST_ERROR (1 << 20) /* of a product with a power, in units of its last bit; in fact 2^13 */

/* powers[MOST_POWER + k]: 10^k = mantissa * 2^exponent; bits after the first 128 are cut off. */
static struct {
    Wide mantissa;
    int exponent;
} powers[2 * MOST_POWER + 1];

static double exact_powers[23]; /* of 10, as float64 */

static void fill_powers(void) {
    exact_powers[0] = 1;
    for (int k = 1; k < 23; k++) exact_powers[k] = 10 * exact_powers[k - 1];
    Wide up = (Wide)1 << 127, down = up;
    int up_exponent = -127, down_exponent = -127;
    for (int k = 0; k <= MOST_POWER; k++) {
        powers[MOST_POWER + k].mantissa = up;
        powers[MOST_POWER + k].exponent = up_exponent;
        powers[MOST_POWER - k].mantissa = down;
        powers[MOST_POWER - k].exponent = down_exponent;
        up = (up >> 4) * 10;
        up_exponent += 4;
        down /= 10;
        for (; !(up >> 127); up_exponent--) up <<= 1;
        for (; !(down >> 127); down_exponent--) down <<= 1;
    }
}

/* Set x to digits * 10^power; return whether that was possible. */
static int scale(uint64_t digits, Py_ssize_t power, double *x) {
    if (power == 0 || digits == 0) {
        *x = (double)digits;
        return 1;
    }
    if (digits >> 53 == 0 && -22 <= power && power <= 22) { /* one operation on exact numbers */
        double whole = (double)digits;
        *x = power < 0 ? whole / exact_powers[-power] : whole * exact_powers[power];
        return 1;
    }
    if (power < -MOST_POWER || power > MOST_POWER) return 0;
    Wide mantissa = powers[MOST_POWER + power].mantissa;
    int shift = __builtin_clzll(digits);
    digits <<= shift;
    Wide product = (Wide)digits * (uint64_t)(mantissa >> 64);
    product += (Wide)digits * (uint64_t)mantissa >> 64;
    /* The true product is this one or up to MOST_ERROR more. If its last 64 bits are not near 0,
     * nothing is carried to the first 64, and it is no tie between two floats: then one bit stands
     * for all the last ones. */
    if ((uint64_t)product + MOST_ERROR < 2 * MOST_ERROR) return 0;
    double rounded = (double)((uint64_t)(product >> 64) | 1);
    *x = ldexp(rounded, powers[MOST_POWER + power].exponent + 128 - shift);
    return 1;
}

static int is_digit(char c) { return (unsigned char)(c - '0') < 10; }

/* Set x to the plain number that begins at p, and return its end; NULL where there is none. */
static const char *read_number(const char *p, char decimal, double *x) {
    const char *start = p;
    int is_negative = *p == '-';
    p += is_negative || *p == '+';
    const char *first = p;
    uint64_t digits = 0; /* modulo 2^64 */
    while (is_digit(*p)) digits = 10 * digits + (uint64_t)(*p++ - '0');
    Py_ssize_t n_digits = p - first, power = 0;
    int is_bare = p - start == n_digits; /* without a sign and a point */
    if (*p == decimal) {
        const char *point = p++;
        while (is_digit(*p)) digits = 10 * digits + (uint64_t)(*p++ - '0');
        power = point + 1 - p;
        n_digits -= power;
        is_bare = 0;
    }
    if (n_digits == 0) return NULL;
    if (*p == 'e' || *p == 'E') {
        int is_capital = *p++ == 'E', is_small = *p == '-', is_signed = is_small || *p == '+';
        const char *begun = p += is_signed;
        Py_ssize_t exponent = 0;
        while (is_digit(*p) && exponent < MOST_POWER) exponent = 10 * exponent + (*p++ - '0');
        if (p == begun || (is_bare && !is_signed && (is_capital || exponent > 99))) return NULL;
        power += is_small ? -exponent : exponent;
    } else if (is_bare && n_digits > 1 && *first == '0') {
        return NULL;
    }
    if (n_digits > 19) {
        for (; *first == '0' || *first == decimal; first++) n_digits -= *first == '0';
        if (n_digits > 19) return NULL;
    }
    if (!scale(digits, power, x)) return NULL;
    if (is_negative) *x = -*x;
    return p;
}

/* ---- lines cut into cells ---- */

typedef union {
    double number;
    struct {
        uint32_t start, length; /* in the lines, until its place is known */
    } text;
    int64_t place; /* among the different ones of its column */
} Cell;

enum { NUMBERS, TEXTS }; /* what a column holds */

typedef struct {
    const char *lines; /* each ends with "\n", and after the last one comes a 0 */
    Cell *cells;       /* column by column */
    char *kinds;       /* of the columns */
    Py_ssize_t n_rows, n_columns;
    char delimiter, decimal;
    const char *gaps; /* words, each followed by "\n" */
    /* Memory to work in: */
    Cell *different; /* n_rows, for the different texts of a column */
    uint32_t *slots; /* n_slots, a power of 2 above n_rows, for a hash table of their numbers */
    size_t n_slots;
} Block;

/* Return the end of the text that begins at p. */
static const char *text_end(const char *p, char delimiter) {
    while (*p != delimiter && *p != '\n' && *p != '\r' && *p != 0) p++;
    return p;
}

/* Return the closing quote of the text that begins at p, or the end of the line; two quotes are
 * one of the text. */
static const char *quoted_end(const char *p, int *is_escaped) {
    for (; *p != '\n' && *p != '\r' && *p != 0; p++) {
        if (*p != '"') continue;
        if (p[1] != '"') break;
        *is_escaped = 1;
        p++;
    }
    return p;
}

/* Return what follows a cell that ends before p, or NULL if that is not the mark. */
static const char *pass(const char *p, char mark) {
    if (mark == '\n' && *p == '\r') p++;
    return *p == mark ? p + 1 : NULL;
}

static int is_gap(const char *word, const char *text, size_t length) {
    while (length && text[length - 1] == ' ') length--;
    for (const char *end; (end = strchr(word, '\n')) != NULL; word = end + 1)
        if ((size_t)(end - word) == length && memcmp(word, text, length) == 0) return 1;
    return 0;
}

/* Cut all lines.  A column of numbers that holds something else becomes one of texts: then the
 * lines are to be cut again.  Returns whether they are, or -1 for lines that are not for us. */
static int cut(const Block *b) {
    const char *p = b->lines, delimiter = b->delimiter;
    int again = 0;
    for (Py_ssize_t row = 0; row < b->n_rows; row++)
        for (Py_ssize_t column = 0; column < b->n_columns; column++) {
            Cell *cell = &b->cells[column * b->n_rows + row];
            char mark = column + 1 < b->n_columns ? delimiter : '\n';
            while (*p == ' ' && delimiter != ' ') p++;
            int is_quoted = *p == '"', is_escaped = 0;
            const char *start = p + is_quoted, *end, *next;
            if (b->kinds[column] == NUMBERS &&
                (end = read_number(start, b->decimal, &cell->number)) != NULL) {
                while (*end == ' ' && (is_quoted || delimiter != ' ')) end++;
                if ((!is_quoted || *end++ == '"') && (next = pass(end, mark)) != NULL) {
                    p = next;
                    continue;
                }
            }
            end = is_quoted ? quoted_end(start, &is_escaped) : text_end(start, delimiter);
            if ((is_quoted && *end != '"') || !(next = pass(end + is_quoted, mark))) return -1;
            if (b->n_columns == 1 && end == p) return -1; /* an empty line is no row */
            if (b->kinds[column] == NUMBERS && is_gap(b->gaps, start, (size_t)(end - start))) {
                cell->number = NAN;
            } else {
                again |= b->kinds[column] == NUMBERS;
                b->kinds[column] = TEXTS;
                /* With its quotes where two of them stand for one. */
                cell->text.start = (uint32_t)(start - is_escaped - b->lines);
                cell->text.length = (uint32_t)(end - start + 2 * is_escaped);
            }
            p = next;
        }
    return *p == 0 ? again : -1;
}

/* ---- different texts ---- */

/* Replace the texts of a column by their places among the different ones, which are put into
 * `different` in the order in which they come; return how many those are. */
static Py_ssize_t place_texts(const Block *b, Cell *cells) {
    Py_ssize_t n = 0;
    memset(b->slots, 0, b->n_slots * sizeof *b->slots);
    for (Cell *cell = cells; cell < cells + b->n_rows; cell++) {
        const char *text = b->lines + cell->text.start;
        uint32_t length = cell->text.length, hash = 2166136261u, number;
        for (uint32_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
        size_t slot = (hash ^ hash >> 15) & (b->n_slots - 1);
        for (; (number = b->slots[slot]) != 0; slot = (slot + 1) & (b->n_slots - 1)) {
            const Cell *other = &b->different[number - 1];
            if (other->text.length == length &&
                memcmp(b->lines + other->text.start, text, length) == 0)
                break;
        }
        if (number == 0) {
            b->different[n++] = *cell;
            b->slots[slot] = number = (uint32_t)n;
        }
        cell->place = number - 1;
    }
    return n;
}

/* Write a text and then the mark; return what follows them. */
static char *write_text(char *out, const char *text, Py_ssize_t length, char mark) {
    if (length == 0 || *text != '"') {
        memcpy(out, text, (size_t)length);
        out += length;
    } else {
        for (const char *p = text + 1; p < text + length - 1; p++) {
            *out++ = *p;
            p += *p == '"';
        }
    }
    *out++ = mark;
    return out;
}

/* Read the block into its cells, and the different texts of its columns into `out`; return the end
 * of those, or NULL for a block that is not for us. */
static char *read_block(const Block *b, char *out) {
    int again = cut(b);
    if (again == 1) again = cut(b);
    if (again == -1) return NULL;
    for (Py_ssize_t j = 0; j < b->n_columns; j++) {
        if (b->kinds[j] == NUMBERS) continue;
        Py_ssize_t n = place_texts(b, b->cells + j * b->n_rows);
        for (const Cell *cell = b->different; cell < b->different + n; cell++) {
            char mark = cell + 1 < b->different + n ? '\n' : 0;
            out = write_text(out, b->lines + cell->text.start, cell->text.length, mark);
        }
    }
    return out;
}

/* ---- Python ---- */

static PyObject *py_read(PyObject *self, PyObject *args) {
    Block b;
    Py_ssize_t size;
    Py_buffer cells, kinds;
    if (!PyArg_ParseTuple(args, "y#w*w*ccy", &b.lines, &size, &cells, &kinds, &b.delimiter,
                          &b.decimal, &b.gaps))
        return NULL;
    b.cells = cells.buf;
    b.kinds = kinds.buf;
    b.n_columns = kinds.len;
    b.n_rows = cells.len / (Py_ssize_t)sizeof(Cell) / (kinds.len ? kinds.len : 1);
    for (b.n_slots = 2; b.n_slots < 2 * (size_t)b.n_rows;) b.n_slots *= 2;
    b.different = malloc((size_t)b.n_rows * sizeof(Cell) + 1);
    b.slots = malloc(b.n_slots * sizeof *b.slots);
    char *texts = malloc((size_t)size + 1), *end = NULL;
    if (b.different != NULL && b.slots != NULL && texts != NULL && size <= UINT32_MAX) {
        Py_BEGIN_ALLOW_THREADS
        end = read_block(&b, texts);
        Py_END_ALLOW_THREADS
    }
    PyObject *found = end ? PyBytes_FromStringAndSize(texts, end - texts) : Py_NewRef(Py_None);
    free(texts);
    free(b.slots);
    free(b.different);
    PyBuffer_Release(&cells);
    PyBuffer_Release(&kinds);
    return found;
}

static PyMethodDef methods[] = {
    {"read", py_read, METH_VARARGS,
     "read(lines, cells, kinds, delimiter, decimal, gaps): the different texts of the columns"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_cells", "Cells of lines of text.", -1, methods,
    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__cells(void) {
    fill_powers();
    PyObject *created = PyModule_Create(&module);
    if (created != NULL && PyModule_AddIntConstant(created, "VERSION", 1)) Py_CLEAR(created);
    return created;
}
