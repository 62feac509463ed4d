// NumPy's C API for every file of the extension: dtypes.cc imports it, the others share the table.
#pragma once

#include "python.h"

#define PY_ARRAY_UNIQUE_SYMBOL callbax_numpy_api
#ifndef CALLBAX_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>
