// Compiled once per instruction set: the activation of a layer's units.
#include "cpu/kernels/activate.hpp"

#include "cpu/kernels/activations.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {
namespace {

template <class T>
bool all_within(int columns, const T* a, T limit) {
    Vec<T> largest{};
    for (int column = 0; column < columns; column += lanes<T>) {
        const Vec<T> size = absolute<T>(load(a + column));
        largest = size > largest ? size : largest;  // a NaN is none of these, and comes through either way
    }
    for (int i = 0; i < lanes<T>; ++i)
        if (!(largest[i] <= limit)) return false;
    return true;
}

template <int Order, class T, class Function>
void apply(Function function, int from, int count, int columns, const Activated<T>& units) {
    for (int row = from; row < from + count; ++row)
        for (int column = 0; column < columns; column += lanes<T>) {
            const std::ptrdiff_t e = static_cast<std::ptrdiff_t>(row) * units.stride + column;
            const Derivatives<T> sigma = function(load(units.h + e));
            store<T>(units.h + e, sigma.value);
            store<T>(units.sigma1 + e, sigma.sigma1);
            if constexpr (Order >= 2) store<T>(units.sigma2 + e, sigma.sigma2);
            if constexpr (Order >= 3) store<T>(units.sigma3 + e, sigma.sigma3);
        }
}

template <int Order, class T>
void activate(Activation activation, int rows, int columns, const Activated<T>& units) {
    const auto run = [&](int from, int count, auto function) { apply<Order, T>(function, from, count, columns, units); };
    switch (activation) {
        case Activation::tanh: return run(0, rows, [](Vec<T> x) { return tanh_derivatives<T>(x); });
        case Activation::sin:  // sample by sample, so that none depends on another one's size
            for (int row = 0; row < rows; ++row) {
                if (all_within<T>(columns, units.h + static_cast<std::ptrdiff_t>(row) * units.stride, sin_limit<T>))
                    run(row, 1, [](Vec<T> x) { return sin_derivatives<T>(x); });
                else
                    run(row, 1, [](Vec<T> x) { return sin_derivatives_any<T>(x); });
            }
            return;
        case Activation::gelu: return run(0, rows, [](Vec<T> x) { return gelu_derivatives<T>(x); });
        case Activation::silu: return run(0, rows, [](Vec<T> x) { return silu_derivatives<T>(x); });
        case Activation::softplus: return run(0, rows, [](Vec<T> x) { return softplus_derivatives<T>(x); });
    }
}

}  // namespace

template <class T>
void activate(Activation activation, int order, int rows, int columns, const Activated<T>& units) {
    order == 1   ? activate<1>(activation, rows, columns, units)
    : order == 2 ? activate<2>(activation, rows, columns, units)
                 : activate<3>(activation, rows, columns, units);
}

template void activate<float>(Activation, int, int, int, const Activated<float>&);
template void activate<double>(Activation, int, int, int, const Activated<double>&);

}  // namespace fastflow::cpu::FASTFLOW_ISA
