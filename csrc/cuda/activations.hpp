// The activations of one value with two derivatives.
#pragma once

#include <cmath>

#include "cuda/device.hpp"
#include "cuda/problem.hpp"
#include "cuda/sine.hpp"

namespace fastflow::cuda {

template <class T>
struct Derivatives {
    T value, first, second;
};

// The logistic function and its derivatives, from exp(-|x|) so that neither tail cancels.
template <class T>
struct Logistic {
    T decay, value, first, second;
};

template <class T>
FASTFLOW_DEVICE Logistic<T> logistic(T x) {
    const T decay = std::exp(-std::fabs(x)), inverse = T(1) / (T(1) + decay);
    const T value = x < T(0) ? decay * inverse : inverse, first = decay * inverse * inverse;
    return {decay, value, first, first * (T(1) - T(2) * value)};
}

template <class T>
FASTFLOW_DEVICE Derivatives<T> tanh_derivatives(T x) {
    const T value = std::tanh(x), first = T(1) - value * value;
    return {value, first, T(-2) * value * first};
}

template <class T>
FASTFLOW_DEVICE Derivatives<T> sin_derivatives(T x) {
    const SineCosine<T> both = sine_cosine(x);
    return {both.sine, both.cosine, -both.sine};
}

template <class T>
FASTFLOW_DEVICE Derivatives<T> gelu_derivatives(T x) {
    const T distribution = T(0.5) * std::erfc(T(-0.7071067811865476) * x);
    const T density = T(0.3989422804014327) * std::exp(T(-0.5) * x * x);
    return {x * distribution, distribution + x * density, density * (T(2) - x * x)};
}

template <class T>
FASTFLOW_DEVICE Derivatives<T> silu_derivatives(T x) {
    const Logistic<T> s = logistic(x);
    return {x * s.value, s.value + x * s.first, T(2) * s.first + x * s.second};
}

template <class T>
FASTFLOW_DEVICE Derivatives<T> softplus_derivatives(T x) {
    const Logistic<T> s = logistic(x);
    return {(x > T(0) ? x : T(0)) + std::log1p(s.decay), s.value, s.first};
}

template <class T>
FASTFLOW_DEVICE Derivatives<T> activate(Activation activation, T x) {
    switch (activation) {
        case Activation::tanh: return tanh_derivatives(x);
        case Activation::sin: return sin_derivatives(x);
        case Activation::gelu: return gelu_derivatives(x);
        case Activation::silu: return silu_derivatives(x);
        default: return softplus_derivatives(x);
    }
}

// The output map tanh; 1 - tanh^2 would cancel where it saturates.
template <class T>
FASTFLOW_DEVICE Derivatives<T> output_tanh(T x) {
    const T value = std::tanh(x), first = T(4) * logistic(T(2) * x).first;
    return {value, first, T(-2) * value * first};
}

}  // namespace fastflow::cuda
