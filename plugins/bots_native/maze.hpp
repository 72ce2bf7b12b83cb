// The ground of an arena, and ways over it: pure, and the same on every machine.
//
// Guards one rule: whatever is computed here follows from the maze's seed alone, so that it may be kept as
// long as the process lives and computed anew by any other.
#ifndef BOTS_MAZE_HPP
#define BOTS_MAZE_HPP

#include <array>
#include <cstdint>
#include <cstdlib>
#include <queue>
#include <utility>
#include <vector>

namespace bots {

constexpr int side = 64;
constexpr int cells = side * side;
constexpr int nowhere = -1;
constexpr int posts = 16;

inline int cell(int x, int y) { return y * side + x; }
inline int x_of(int at) { return at % side; }
inline int y_of(int at) { return at / side; }
inline int apart(int a, int b) { return std::abs(x_of(a) - x_of(b)) + std::abs(y_of(a) - y_of(b)); }

/// Numbers that look random and are the same everywhere.
inline std::uint64_t mixed(std::uint64_t number) {
    number += 0x9e3779b97f4a7c15u;
    number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
    number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
    return number ^ (number >> 31);
}

class Maze {
public:
    explicit Maze(std::uint64_t seed) {
        for (int at = 0; at < cells; ++at) {
            const bool edge = x_of(at) == 0 || y_of(at) == 0 || x_of(at) == side - 1 || y_of(at) == side - 1;
            wall_[at] = edge || mixed(seed * cells + at) % 4 == 0;
        }
        // what cannot be reached from the middle is wall, too
        wall_[cell(side / 2, side / 2)] = false;
        const auto &reached = to(cell(side / 2, side / 2));
        for (int at = 0; at < cells; ++at) if (reached[at] < 0) wall_[at] = true;
        for (int i = 0; i < posts; ++i) posts_[i] = open_near(mixed(seed + 1000 + i));
    }
    bool wall(int at) const { return at < 0 || at >= cells || wall_[at]; }
    int post(std::int64_t number) const { return posts_[static_cast<std::uint64_t>(number) % posts]; }
    /// An open cell that follows from a number.
    int open_near(std::uint64_t number) const {
        int at = static_cast<int>(mixed(number) % cells);
        while (wall_[at]) at = (at + 1) % cells;
        return at;
    }

    /// How many steps it is from each cell to this one, -1 from walls: a flow field, computed once.
    const std::vector<int> &to(int goal) {
        auto &field = fields_[goal];
        if (!field.empty()) return field;
        field.assign(cells, nowhere);
        std::queue<int> next;
        field[goal] = 0;
        next.push(goal);
        while (!next.empty()) {
            const int at = next.front();
            next.pop();
            for (const int step : steps) {
                const int beside = at + step;
                if (wall(beside) || field[beside] >= 0) continue;
                field[beside] = field[at] + 1;
                next.push(beside);
            }
        }
        return field;
    }

    /// One step down the flow field; among equally good ones `taste` decides, so that crowds spread.
    int step_to(int at, int goal, std::uint64_t taste) {
        const auto &field = to(goal);
        int best = at;
        for (int i = 0; i < 4; ++i) {
            const int beside = at + steps[(taste + i) % 4];
            if (!wall(beside) && field[beside] >= 0 && field[beside] < field[best]) best = beside;
        }
        return best;
    }

    /// The first step of a shortest way (A*), `at` itself if there is none within `most` cells looked at.
    int first_step(int at, int goal, int most) {
        if (at == goal || wall(goal)) return at;
        // searched backwards, so that the cell before `at` is the step to take
        ++search_;
        std::priority_queue<std::pair<int, int>, std::vector<std::pair<int, int>>, std::greater<>> open;
        open.push({apart(goal, at), goal});
        cost_[goal] = 0;
        seen_[goal] = search_;
        while (!open.empty() && most-- > 0) {
            const int here = open.top().second;
            open.pop();
            for (const int step : steps) {
                const int beside = here + step;
                if (beside == at) return here;
                if (wall(beside)) continue;
                const int cost = cost_[here] + 1;
                if (seen_[beside] == search_ && cost_[beside] <= cost) continue;
                seen_[beside] = search_;
                cost_[beside] = cost;
                open.push({cost + apart(beside, at), beside});
            }
        }
        return at;
    }

private:
    static constexpr std::array<int, 4> steps{1, side, -1, -side};
    std::array<bool, cells> wall_{};
    std::array<int, posts> posts_{};
    std::array<std::vector<int>, cells> fields_;
    std::array<int, cells> cost_{};
    std::array<std::uint32_t, cells> seen_{};
    std::uint32_t search_ = 0;
};

}  // namespace bots

#endif
