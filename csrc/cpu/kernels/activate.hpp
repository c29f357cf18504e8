// The activation of a layer's units.
#pragma once

#include "cpu/kernels/products.hpp"
#include "cpu/network.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

// The values and derivatives of an activation, in rows of one shape. Which derivatives are wanted is the call's.
template <class T>
struct Activated {
    T *h, *sigma1, *sigma2, *sigma3;
    int stride;
};

// Of `rows` rows of `columns` inputs in `h`, puts sigma of each in its place, and its derivatives up to the `order`-th, from 1
// to 3, into the other rows.
template <class T>
void activate(Activation activation, int order, int rows, int columns, const Activated<T>& units);

}  // namespace fastflow::cpu::FASTFLOW_ISA
