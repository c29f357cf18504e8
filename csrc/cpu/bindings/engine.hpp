// The engine's functions in the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace fastflow::cpu {

void bind_engine(nanobind::module_& m);

}  // namespace fastflow::cpu
