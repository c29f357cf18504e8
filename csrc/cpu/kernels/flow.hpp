// Flows dz/dt = +-grad u(z, t) of a chunk of samples, tile by tile: each tile takes all steps while its weights are in the
// cache. Forward by Euler, Heun or Runge-Kutta; reverse by fixed-point iteration; back by the discrete adjoint, which
// computes each step's stages again. A rollout also has the residual at each point of the path.
#pragma once

#include "cpu/calls.hpp"
#include "cpu/kernels/jet_pass.hpp"
#include "cpu/kernels/residual_loss.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct FlowRunner {
    static constexpr int max_stages = 4;
    static constexpr std::size_t most_step_bytes = 512 * 1024;

    const FlowCall<T>& call;
    const Network<T>& net;
    Potential<T> potential;
    JetPass<T> pass;
    Tile<T>& tile;
    int dim, columns, stages;
    Rows<T> point, increment, increment_bar, adjoint, trial;  // trial: a second estimate, in fixed-point iterations
    Rows<T> stage_points[max_stages], fields[max_stages];     // where the field is evaluated, and its values there
    Rows<T> stage_bar;
    Rows<T> q, q_rest, stage_sum, stage_move;  // of a path in the first layer's coordinates
    T* scales;                                 // of its moves (capacity,)
    T* lengths;   // of the increments before normalisation (capacity,)
    T *movements, *errors;  // of the fixed-point iterations (capacity,)
    T* bias_bar;  // gradients of the bias jets (times, layout.size())
    std::size_t step_sums_size;  // of the accumulators for the tile's points at one step of a rollout; 0 without
    char* step_sums;
    BiasLayout<T> layout;
    std::int64_t k = 0, begin = 0;  // the chunk's potential, the tile's first position

    FlowRunner(const FlowCall<T>& call_, void* packed, Arena& arena) : FlowRunner(call_, Arena{packed}, arena) {}

    void run(const Chunk& chunk, const ChunkGradient<T>& out) {
        Arena accumulator_arena{out.accumulators};
        Accumulators<T> accumulators(net, accumulator_arena);
        if (call.backward) __builtin_memset(bias_bar, 0, sizeof(T) * layout.size() * call.times);
        k = chunk.potential;
        for (begin = chunk.begin; begin < chunk.end; begin += tile.capacity) {
            tile.n = static_cast<int>(chunk.end - begin < tile.capacity ? chunk.end - begin : tile.capacity);
            if (stages == 1) point.data = stage_points[0].data = tile.h(0);  // no other stage comes between
            if (call.z != nullptr)
                call.direction == Direction::reverse ? integrate_reverse() : net.gram ? integrate_in_first_layer() : integrate(out.loss);
            if (!call.backward) continue;
            call.direction == Direction::reverse ? backward_of_reverse(accumulators) : backward(accumulators, out.loss);
        }
        if (!call.backward) return;
        T* partial = out.partial_rows;
        for (int time = 0; time < call.times; ++time) {
            partial = layout.copy_partial(bias_bar + layout.size() * time, partial);
            out.partial_slots[time] = call.slots[time * net.num_potentials + k];
        }
    }

   private:
    FlowRunner(const FlowCall<T>& call_, Arena packed, Arena& arena)
        : call(call_), net(call_.net), potential(net, packed), pass(net, potential, arena), tile(pass.tile), dim(net.width[0]),
          columns(padded<T>(dim)), stages(call_.method == Method::euler  ? 1
                                          : call_.method == Method::heun ? 2
                                                                         : 4),
          layout(net) {
        const int stride = row_stride<T>(dim);
        const auto rows = [&] { return Rows<T>{arena.take<T>(static_cast<std::size_t>(tile.capacity) * stride), stride}; };
        point = rows(), increment = rows(), increment_bar = rows(), adjoint = rows(), trial = rows(), stage_bar = rows();
        for (int s = 0; s < stages; ++s) stage_points[s] = s == 0 ? point : rows(), fields[s] = rows();
        const int front = row_stride<T>(net.width[1]);
        Rows<T>* const in_first_layer[] = {&q, &q_rest, &stage_sum, &stage_move};
        for (Rows<T>* rows : in_first_layer) *rows = {arena.take<T>(net.gram ? static_cast<std::size_t>(tile.capacity) * front : 0), front};
        scales = arena.take<T>(tile.capacity);
        lengths = arena.take<T>(tile.capacity);
        movements = arena.take<T>(tile.capacity);
        errors = arena.take<T>(tile.capacity);
        bias_bar = arena.take<T>(call.backward ? layout.size() * call.times : 0);
        Arena measure{nullptr};
        Accumulators<T>(net, measure);
        step_sums_size = call.backward && call.coefficients != nullptr && measure.used <= most_step_bytes ? measure.used : 0;
        step_sums = arena.take<char>(step_sums_size);
    }

    T* path(int i, int n) const {
        const std::int64_t id = call.order != nullptr ? call.order[begin + i] : begin + i;
        return call.path + (id * (call.steps + 1) + n) * dim;
    }
    std::int64_t point_index(int i, int n) const { return (call.order != nullptr ? call.order[begin + i] : begin + i) * call.steps + n; }

    // f(i, first column) for every vector of the tile's rows.
    template <class F>
    void for_vectors(F f) const {
        for (int i = 0; i < tile.n; ++i)
            for (int c = 0; c < columns; c += lanes<T>) f(i, c);
    }
    static void copy(const T* from, T* to, int n) {
        for (int c = 0; c < n; ++c) to[c] = from[c];
    }
    // The vector's lanes from column c on that are no padding.
    void store_columns(T* row, int c, Vec<T> v) const {
        if (c + lanes<T> <= dim) return store<T>(row + c, v);
        for (int lane = 0; c + lane < dim; ++lane) row[c + lane] = v[lane];
    }
    // Starts the path.
    void begin_path() {
        for (int i = 0; i < tile.n; ++i) copy(call.z + (path(i, 0) - call.path) / (call.steps + 1), path(i, 0), dim);
        read(0, point);
    }
    // Reads the path's n-th points, padded with zeros.
    void read(int n, const Rows<T>& rows) const {
        for (int i = 0; i < tile.n; ++i) {
            copy(path(i, n), rows.row(i), dim);
            for (int c = dim; c < columns; ++c) rows.row(i)[c] = 0;
        }
    }
    // Adds the cotangent of the path's n-th points, if there is one.
    void add_path_bar(int n, const Rows<T>& rows) const {
        if (call.path_bar == nullptr) return;
        for (int i = 0; i < tile.n; ++i) {
            const T* bar = call.path_bar + (path(i, n) - call.path);
            for (int c = 0; c < dim; ++c) rows.row(i)[c] += bar[c];
        }
    }
    void clear(const Rows<T>& rows) const {
        for_vectors([&](int i, int c) { store<T>(rows.row(i) + c, Vec<T>{}); });
    }

    // Which of the method's times stage s of step n uses, how far along its field the next stage stands, and the field's weight.
    int stage_time(int n, int s) const { return stages == 4 ? 2 * n + (s + 1) / 2 : n + s; }
    T stage_step(int s) const { return stages == 4 && s < 2 ? call.dt / 2 : call.dt; }
    T stage_weight(int s) const { return stages == 1 ? call.dt : stages == 2 ? call.dt / 2 : s == 0 || s == 3 ? call.dt / 6 : call.dt / 3; }

    // stage_step / stage_weight
    T stage_ratio(int s) const { return stages == 2 ? T(2) : s == 1 ? T(1.5) : T(3); }

    void place(const Rows<T>& points, int time, bool with_jets) {
        if (points.data != tile.h(0)) for_vectors([&](int i, int c) { store<T>(tile.h(0) + tile.at(i, points.stride) + c, get(points, i, c)); });
        set_time(time, with_jets);
    }
    void set_time(int time, bool with_jets) {
        tile.has_laplacian = with_jets && net.laplacian != Laplacian::none;
        tile.has_time = tile.has_time_tangents = with_jets && net.has_time;
        tile.load_bias(call.slots[time * net.num_potentials + k], 0, true);
    }
    static Vec<T> get(const Rows<T>& rows, int i, int c) { return load(rows.row(i) + c); }

    // Gives use(i, c, increment(point, step n)) every vector; keeps stages, and with a step length increments as well. The
    // tile may have gone forward from the point already.
    template <class Use>
    void make_increment(int n, bool has_gone_forward, Use use) {
        for (int s = 0; s < stages; ++s) {
            if (s > 0)
                for_vectors(
                    [&](int i, int c) { store<T>(stage_points[s].row(i) + c, get(point, i, c) + stage_step(s - 1) * get(fields[s - 1], i, c)); });
            if (s > 0 || !has_gone_forward) {
                place(stage_points[s], stage_time(n, s), false);
                tile.forward(1);
                pass.output_map.forward();
            }
            const bool last = s == stages - 1, used = last && call.step_length < 0;
            for_vectors([&](int i, int c) {
                const Vec<T> field = call.sign * pass.output_map.psi1[i] * load(tile.grad_v() + tile.at(i, fields[s].stride) + c);
                const Vec<T> part = stage_weight(s) * field, sum = s == 0 ? part : get(increment, i, c) + part;
                if (used) return use(i, c, sum);
                store<T>(increment.row(i) + c, sum);
                if (!last) store<T>(fields[s].row(i) + c, field);
            });
        }
        if (call.step_length < 0) return;
        for (int i = 0; i < tile.n; ++i) {
            lengths[i] = norm(increment, i);
            const T scale = lengths[i] > 0 ? call.step_length / lengths[i] : T(0);
            for (int c = 0; c < columns; c += lanes<T>) {
                const Vec<T> scaled = scale * get(increment, i, c);
                store<T>(increment.row(i) + c, scaled);
                use(i, c, scaled);
            }
        }
    }

    T norm(const Rows<T>& rows, int i) const {
        Vec<T> sum{};
        for (int c = 0; c < columns; c += lanes<T>) sum += get(rows, i, c) * get(rows, i, c);
        return __builtin_sqrt(sum_lanes<T>(sum));
    }

    // The cotangent of a stage's points, for that of the gradient there in stage_bar: into tile.z_bar.
    void field_backward(int n, int s, Accumulators<T>* accumulators) {
        place(stage_points[s], stage_time(n, s), false);
        tile.forward(2);
        pass.output_map.forward();
        for (int i = 0; i < tile.n; ++i) pass.output_map.backward(i, {}, stage_bar.row(i));
        tile.backward(true, true, accumulators);
        if (accumulators != nullptr) add_bias_bar(stage_time(n, s));
    }

    void add_bias_bar(int time) { tile.bias_gradient(0, tile.n, layout, bias_bar + layout.size() * time); }

    // After make_increment(n) at `point`: adds to `sum` the cotangent of the point, for increment_bar, which changes. `first`
    // does the same as field_backward for the first stage.
    template <class First>
    void increment_backward(int n, const Rows<T>& sum, Accumulators<T>* accumulators, First first) {
        if (call.step_length >= 0) normalisation_backward();
        for (int s = stages - 1; s >= 0; --s) {
            for_vectors([&](int i, int c) {
                Vec<T> bar = stage_weight(s) * get(increment_bar, i, c);
                if (s < stages - 1) bar += stage_step(s) * load(tile.z_bar + tile.at(i, sum.stride) + c);
                store<T>(stage_bar.row(i) + c, call.sign * bar);
            });
            s > 0 ? field_backward(n, s, accumulators) : first();
            for_vectors([&](int i, int c) { store<T>(sum.row(i) + c, get(sum, i, c) + load(tile.z_bar + tile.at(i, sum.stride) + c)); });
        }
    }

    // increment = step_length m / |m|, to the cotangent of m.
    void normalisation_backward() {
        for (int i = 0; i < tile.n; ++i) {
            Vec<T> products{};
            for (int c = 0; c < columns; c += lanes<T>) products += get(increment_bar, i, c) * get(increment, i, c);
            const bool moves = lengths[i] > 0 && call.step_length > 0;
            const T along = moves ? sum_lanes<T>(products) / (call.step_length * call.step_length) : T(0);
            const T scale = moves ? call.step_length / lengths[i] : T(0);
            for (int c = 0; c < columns; c += lanes<T>)
                store<T>(increment_bar.row(i) + c, scale * (get(increment_bar, i, c) - along * get(increment, i, c)));
        }
    }

    void integrate(double* loss) {
        const bool residuals = call.coefficients != nullptr && !call.backward;  // else they come with the gradients
        begin_path();
        for (int n = 0; n < call.steps; ++n) {
            if (residuals) {
                place(point, stage_time(n, 0), true);
                pass.forward([&](int i) { residual_at(i, n, loss); });
            }
            make_increment(n, residuals, [&](int i, int c, Vec<T> increment) {
                const Vec<T> next = get(point, i, c) + increment;
                store<T>(point.row(i) + c, next);
                store_columns(path(i, n + 1), c, next);
            });
        }
    }

    // The same path in the first layer's coordinates q = W_1 z: where z moves by W_1^T c, q moves by W_1 W_1^T c. Stages need
    // no z then, and a step only to write it: of an Euler step's two products with W_1 one becomes a smaller one, and of a
    // Runge-Kutta step's eight seven.
    void integrate_in_first_layer() {
        begin_path();
        start_q();
        for (int n = 0; n < call.steps; ++n) {
            for (int s = 0; s < stages; ++s) make_move(n, s);
            call.step_length < 0 ? step() : step_of_length();
            for (int i = 0; i < tile.n; ++i) copy(point.row(i), path(i, n + 1), dim);
        }
    }

    // rows * panels, in the tile's scratch. What a product adds to comes after it: on the way, each of its many additions would
    // round at the size of that.
    Rows<T> product(const Rows<T>& rows, const Panels<T>& panels) {
        const Rows<T> out{tile.scratch, row_stride<T>(panels.columns)};
        multiply_panels<T>(tile.n, rows, panels, out);
        return out;
    }

    // e_1 of the tile's samples.
    Rows<T> signal() const { return tile.signal_rows(1); }
    // The c of a step, but for each sample's factor in `scales`.
    Rows<T> move() const { return stages == 1 ? signal() : stage_sum; }

    // Stage s of step n: its share of the move, which begins with the step's first stage.
    void make_move(int n, int s) {
        set_time(stage_time(n, s), false);
        enter_first_layer(n, s);
        tile.forward_values(1);
        pass.output_map.forward();
        tile.backward_signal();
        for (int i = 0; i < tile.n; ++i) {
            scales[i] = call.sign * stage_weight(s) * pass.output_map.psi1[i];
            if (stages == 1) continue;
            const T scale = scales[i];
            scales[i] = 1;
            for (int c = 0; c < tile.layers[1].columns; c += lanes<T>) {
                const Vec<T> part = scale * get(signal(), i, c);
                store<T>(stage_sum.row(i) + c, s == 0 ? part : get(stage_sum, i, c) + part);
                if (s < stages - 1) store<T>(stage_move.row(i) + c, stage_ratio(s) * part);
            }
        }
    }

    // f(i, first column) for every vector of the first layer.
    template <class F>
    void for_front(F f) const {
        for (int i = 0; i < tile.n; ++i)
            for (int c = 0; c < tile.layers[1].columns; c += lanes<T>) f(i, c);
    }

    // q at the path's start.
    void start_q() {
        const Rows<T> part{tile.scratch, q.stride};
        for_front([&](int i, int c) { store<T>(q.row(i) + c, Vec<T>{}), store<T>(q_rest.row(i) + c, Vec<T>{}); });
        for (int from = 0; from < dim; from += short_sum) {
            multiply_part<T>(tile.n, point, potential.up[1], from, dim - from < short_sum ? dim : from + short_sum, part, false);
            for_front([&](int i, int c) { add_to_q(i, c, get(part, i, c)); });
        }
    }

    // q += v, and what that rounds off, to first order, goes into the next addition: it would stay for the whole path.
    Vec<T> add_to_q(int i, int c, Vec<T> v) {
        const Vec<T> before = get(q, i, c), addend = v + get(q_rest, i, c), sum = before + addend;
        store<T>(q.row(i) + c, sum);
        store<T>(q_rest.row(i) + c, addend - (sum - before));
        return sum;
    }

    // a_1 = q + b_1 at the stage's point; a step's first stage comes after the step before, if any, has moved q.
    void enter_first_layer(int n, int s) {
        const auto enter = [&](int i, int c, Vec<T> point) { store<T>(tile.h(1) + tile.at(i, q.stride) + c, point + load(tile.bias(1, i, 0) + c)); };
        if (s > 0) {
            const Rows<T> moved = product(stage_move, potential.gram);
            for_front([&](int i, int c) { enter(i, c, get(q, i, c) + get(moved, i, c)); });
        } else if (n > 0) {
            const Rows<T> moved = product(move(), potential.gram);
            for_front([&](int i, int c) { enter(i, c, add_to_q(i, c, scales[i] * get(moved, i, c))); });
        } else {
            for_front([&](int i, int c) { enter(i, c, get(q, i, c)); });
        }
    }

    // z's step by its move.
    void step() {
        const Rows<T> moved = product(move(), potential.down[1]);
        for_vectors([&](int i, int c) { store<T>(point.row(i) + c, get(point, i, c) + scales[i] * get(moved, i, c)); });
    }

    // The same rescaled to the step's length, and the move with it.
    void step_of_length() {
        const Rows<T> moved = product(move(), potential.down[1]);
        for_vectors([&](int i, int c) { store<T>(increment.row(i) + c, scales[i] * get(moved, i, c)); });
        for (int i = 0; i < tile.n; ++i) {
            const T length = norm(increment, i), scale = length > 0 ? call.step_length / length : T(0);
            for (int c = 0; c < columns; c += lanes<T>) store<T>(point.row(i) + c, get(point, i, c) + scale * get(increment, i, c));
            scales[i] *= scale;
        }
    }

    T residual_at(int i, int n, double* loss) {
        const T source = call.source != nullptr ? call.source[point_index(i, n)] : T(0);
        const T r = residual(call.coefficients + k * num_coefficients, pass.output_map.scalars(i), source);
        if (call.residual != nullptr) call.residual[point_index(i, n)] = r;
        *loss += static_cast<double>(r) * r;
        return r;
    }

    void backward(Accumulators<T>& accumulators, double* loss) {
        clear(adjoint);
        add_path_bar(call.steps, adjoint);
        for (int n = call.steps - 1; n >= 0; --n) {
            read(n, point);
            if (stages > 1 || call.step_length >= 0) make_increment(n, false, [](int, int, Vec<T>) {});
            for_vectors([&](int i, int c) { store<T>(increment_bar.row(i) + c, get(adjoint, i, c)); });
            add_path_bar(n, adjoint);
            increment_backward(n, adjoint, &accumulators, [&] {
                if (call.coefficients == nullptr) return field_backward(n, 0, &accumulators);
                residual_backward_at(n, accumulators, loss);
            });
        }
        for (int i = 0; i < tile.n && call.z_bar != nullptr; ++i) write_z_bar(i);
    }

    void write_z_bar(int i) const { copy(adjoint.row(i), call.z_bar + (path(i, 0) - call.path) / (call.steps + 1), dim); }

    // The first stage of step n together with the residual at its point. Tangents add to the accumulators group by group, and
    // that at every step would round long sums; a step has sums of its own, unless the network is so wide that they cost memory.
    void residual_backward_at(int n, Accumulators<T>& all, double* loss) {
        Arena own{step_sums};
        Accumulators<T> accumulators = step_sums_size > 0 ? Accumulators<T>(net, own) : all;
        if (step_sums_size > 0) __builtin_memset(step_sums, 0, step_sums_size);
        place(point, stage_time(n, 0), true);
        pass.backward(accumulators, true, [&](int i) {
            const T r = residual_at(i, n, loss), r_bar = call.loss_scale * r;
            if (call.source_bar != nullptr) call.source_bar[point_index(i, n)] = r_bar;
            const T* c = call.coefficients + k * num_coefficients;
            return pass.output_map.backward(i, residual_backward(c, pass.output_map.scalars(i), r_bar, accumulators.coefficients), stage_bar.row(i));
        });
        if (step_sums_size > 0) all.add(net, accumulators);
        add_bias_bar(stage_time(n, 0));
    }

    // Solves rows = function(rows) in place by iteration, each row until it moves by less than the tolerance; `function`
    // writes its value for all rows to `trial`. Leaves in `errors` how far each row is from the solution, relative to `floor`
    // + its size: movements that shrink by a factor q add up to q / (1 - q) times the last one.
    template <class Function>
    void solve(const Rows<T>& rows, T floor, Function function) {
        constexpr int most_iterations = 200;
        const T tolerance = 8 * (sizeof(T) == 4 ? T(FLT_EPSILON) : T(DBL_EPSILON));
        for (int i = 0; i < tile.n; ++i) errors[i] = movements[i] = 1;
        for (int iteration = 0; iteration < most_iterations; ++iteration) {
            function();
            bool done = true;
            for (int i = 0; i < tile.n; ++i) {
                if (movements[i] <= tolerance) continue;
                Vec<T> moved{};
                for (int c = 0; c < columns; c += lanes<T>) {
                    const Vec<T> step = get(trial, i, c) - get(rows, i, c);
                    moved += step * step;
                    store<T>(rows.row(i) + c, get(trial, i, c));
                }
                const T distance = __builtin_sqrt(sum_lanes<T>(moved));
                const T movement = distance == 0 ? T(0) : distance / (floor + norm(rows, i)), rate = movement / movements[i];
                movements[i] = movement;
                errors[i] = movement <= tolerance || rate < T(0.5) ? movement : rate < 1 ? movement * rate / (1 - rate) : T(1);
                done = done && movement <= tolerance;
            }
            if (done) return;
        }
    }

    // z_n from z_{n+1} = z_n + increment(z_n, n), for n = steps - 1 .. 0.
    void integrate_reverse() {
        for (int i = 0; i < tile.n; ++i) worst(i) = 0;
        begin_path();
        for (int m = 0; m < call.steps; ++m) {
            const Rows<T>& end = adjoint;
            for_vectors([&](int i, int c) { store<T>(end.row(i) + c, get(point, i, c)); });
            solve(point, T(1), [&] {
                make_increment(call.steps - 1 - m, false,
                               [&](int i, int c, Vec<T> increment) { store<T>(trial.row(i) + c, get(end, i, c) - increment); });
            });
            for (int i = 0; i < tile.n; ++i) {
                copy(point.row(i), path(i, m + 1), dim);
                if (!(errors[i] <= worst(i))) worst(i) = errors[i];
            }
        }
    }

    T& worst(int i) const { return call.reverse_error[call.order != nullptr ? call.order[begin + i] : begin + i]; }

    // By the implicit function theorem: with J the increment's Jacobian at z_n, a cotangent g of z_n becomes the solution of
    // mu = g - J^T mu; mu is what z_{n+1} gets, and the parameters get -mu times the increment's derivative.
    void backward_of_reverse(Accumulators<T>& accumulators) {
        const Rows<T>& mu = adjoint;
        const Rows<T> given = increment_given();
        clear(mu);
        for (int m = call.steps; m > 0; --m) {
            const int n = call.steps - m;
            add_path_bar(m, mu);
            read(m, point);
            make_increment(n, false, [](int, int, Vec<T>) {});
            for_vectors([&](int i, int c) { store<T>(given.row(i) + c, get(mu, i, c)); });
            const auto apply = [&](const Rows<T>& sum, Accumulators<T>* into) {
                for_vectors([&](int i, int c) { store<T>(increment_bar.row(i) + c, -get(mu, i, c)); });
                increment_backward(n, sum, into, [&] { field_backward(n, 0, into); });
            };
            solve(mu, T(0), [&] {
                for_vectors([&](int i, int c) { store<T>(trial.row(i) + c, get(given, i, c)); });
                apply(trial, nullptr);
            });
            apply(trial, &accumulators);
        }
        add_path_bar(0, mu);
        for (int i = 0; i < tile.n && call.z_bar != nullptr; ++i) write_z_bar(i);
    }

    // The last field is only needed while an increment is made.
    Rows<T> increment_given() const { return fields[stages - 1]; }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
