// Guards in an arena: they walk from post to post, and run after whom they see. Ten times a second for
// every guard of the partition, in one transaction; what players see of them is one value of the room.
//
// Where a guard stands is transient: it costs no commit, and after a failover guards begin at their posts.
// What they have caught is counted, and kept.

#include <functional>
#include <memory>

#include "connserver.hpp"
#include "maze.hpp"

namespace {

using bots::Maze;

constexpr double hz = 10;
constexpr int sight = 10;
constexpr int most_searched = 400;
constexpr std::int64_t most_bots = 2000;

struct Visitor : cs::Object {
    static constexpr const char *kind = "visitor";
    std::string arena;
    std::int64_t caught = 0;
    template <class F> void fields(F &field) {
        field("arena", arena);
        field("caught", caught);
    }
};

struct Arena : cs::Object {
    static constexpr const char *kind = "arena";
    std::int64_t seed = 1, catches = 0;
    std::map<std::string, std::int64_t> visitors;  // see key_of → the cell
    template <class F> void fields(F &field) {
        field("seed", seed);
        field("catches", catches);
        field("visitors", visitors, cs::transient);
    }
};

struct Bot : cs::Object {
    static constexpr const char *kind = "bot";
    cs::Ref<Arena> arena;
    std::int64_t post = 0, at = bots::nowhere, goal = 0;
    template <class F> void fields(F &field) {
        field("arena", arena, cs::required);
        field("post", post);
        field("at", at, cs::transient);
        field("goal", goal, cs::transient);
    }
};

/// Keys of a map are names, and an id may begin with a digit.
std::string key_of(const cs::Ref<Visitor> &visitor) { return "v" + visitor.text(); }
std::uint64_t oid_of(const std::string &key) { return std::stoull(key.substr(1), nullptr, 16); }

/// Mazes follow from their seeds, so a few are kept.
Maze &maze_of(std::int64_t seed) {
    static std::map<std::int64_t, std::unique_ptr<Maze>> known;
    if (known.size() > 16) known.clear();
    auto &maze = known[seed];
    if (!maze) maze = std::make_unique<Maze>(static_cast<std::uint64_t>(seed));
    return *maze;
}

// --- players ----------------------------------------------------------------------------------------------

cs::Reply enter(cs::Context &ctx, Visitor &me, const std::string &arena) {
    if (arena.empty() || arena.size() > 32) throw cs::Refused("bots.bad_name", "1 to 32 characters");
    if (!me.arena.empty() && me.arena != arena) ctx.room("arena." + me.arena).leave(me);
    me.arena = arena;
    ctx.room("arena." + arena).join(me);
    return ctx.call(ctx.named<Arena>(arena), "stand", {{"visitor", cs::Ref<Visitor>(me)}, {"x", -1}, {"y", -1}});
}

cs::Reply move(cs::Context &ctx, Visitor &me, std::int64_t x, std::int64_t y) {
    if (me.arena.empty()) throw cs::Refused("bots.nowhere", "enter an arena first: bots.enter");
    return ctx.call(ctx.named<Arena>(me.arena), "stand", {{"visitor", cs::Ref<Visitor>(me)}, {"x", x}, {"y", y}});
}

/// A visitor stands at (x, y), or at the gate if that is outside.
cs::Fields stand(cs::Context &, Arena &me, const cs::Ref<Visitor> &visitor, std::int64_t x, std::int64_t y) {
    auto &maze = maze_of(me.seed);
    const bool inside = x >= 0 && x < bots::side && y >= 0 && y < bots::side;
    const int at = inside ? bots::cell(static_cast<int>(x), static_cast<int>(y)) : maze.post(0);
    if (maze.wall(at)) throw cs::Refused("bots.wall");
    me.visitors[key_of(visitor)] = at;
    return {{"x", bots::x_of(at)}, {"y", bots::y_of(at)}};
}

cs::Reply fill(cs::Context &ctx, cs::Object &, const std::string &arena, std::int64_t count, std::int64_t seed) {
    return ctx.call(ctx.named<Arena>(arena), "filled", {{"count", count}, {"seed", seed}});
}

cs::Fields filled(cs::Context &ctx, Arena &me, std::int64_t count, std::int64_t seed) {
    const auto present = static_cast<std::int64_t>(ctx.where<Bot>({{"arena", cs::Ref<Arena>(me)}}).size());
    if (count < 0 || present + count > most_bots) throw cs::Refused("bots.too_many", "2000 in one arena");
    if (present == 0) me.seed = seed;
    for (std::int64_t i = 0; i < count; ++i) {
        Bot bot;
        bot.arena = cs::Ref<Arena>(me);
        bot.post = present + i;
        ctx.create(bot);
    }
    return {{"bots", present + count}, {"seed", me.seed}};
}

cs::Reply report(cs::Context &ctx, cs::Object &, const std::string &arena) {
    return ctx.call(ctx.named<Arena>(arena), "reported");
}

cs::Fields reported(cs::Context &ctx, Arena &me) {
    cs::Array standing;
    for (const auto *bot : ctx.where<Bot>({{"arena", cs::Ref<Arena>(me)}})) {
        standing.push_back(cs::Array{bots::x_of(static_cast<int>(bot->at)), bots::y_of(static_cast<int>(bot->at))});
    }
    return {{"bots", standing}, {"catches", me.catches}};
}

// --- guards -----------------------------------------------------------------------------------------------

struct Seen {
    std::uint64_t oid;
    int at;
};

/// The visitor that a guard at this cell runs after; nullptr if it sees none.
const Seen *nearest(const std::vector<Seen> &visitors, int at) {
    const Seen *found = nullptr;
    for (const auto &visitor : visitors) {
        if (bots::apart(visitor.at, at) > sight) continue;
        if (found == nullptr || bots::apart(visitor.at, at) < bots::apart(found->at, at)) found = &visitor;
    }
    return found;
}

/// One step of one guard: where it stands now.
int step(Maze &maze, Bot &bot, const Seen *visitor) {
    const int at = static_cast<int>(bot.at);
    if (visitor != nullptr) {
        const int next = maze.first_step(at, visitor->at, most_searched);
        if (next != at) return next;
    }
    if (at == maze.post(bot.goal)) {
        // to the next post, each guard in an order of its own
        bot.goal = static_cast<std::int64_t>(bots::mixed(bot.oid + static_cast<std::uint64_t>(bot.goal)) % bots::posts);
    }
    return maze.step_to(at, maze.post(bot.goal), bot.oid);
}

void catch_visitor(cs::Context &ctx, Arena &arena, std::uint64_t visitor) {
    ++arena.catches;
    const cs::Ref<Visitor> who(visitor);
    arena.visitors.erase(key_of(who));
    ctx.call(who, "was_caught");
}

void was_caught(cs::Context &ctx, Visitor &me) {
    ++me.caught;
    ctx.tell(me, "bots.caught", {{"arena", me.arena}, {"times", me.caught}});
}

void think_in(cs::Context &ctx, Arena &arena, const std::vector<Bot *> &guards) {
    auto &maze = maze_of(arena.seed);
    std::vector<Seen> visitors;
    for (const auto &[key, at] : arena.visitors) visitors.push_back({oid_of(key), static_cast<int>(at)});
    std::vector<std::int64_t> standing;
    standing.reserve(guards.size() * 2);
    for (auto *bot : guards) {
        if (bot->at < 0 || maze.wall(static_cast<int>(bot->at))) bot->at = maze.post(bot->post);
        const Seen *visitor = nearest(visitors, static_cast<int>(bot->at));
        bot->at = step(maze, *bot, visitor);
        if (visitor != nullptr && bot->at == visitor->at) {
            catch_visitor(ctx, arena, visitor->oid);
            visitors.erase(visitors.begin() + (visitor - visitors.data()));
        }
        standing.push_back(bots::x_of(static_cast<int>(bot->at)));
        standing.push_back(bots::y_of(static_cast<int>(bot->at)));
    }
    ctx.room("arena." + arena.named).update("bots", standing);
}

void think(cs::Context &ctx) {
    std::map<std::uint64_t, std::vector<Bot *>> by_arena;
    for (auto *bot : ctx.where<Bot>()) by_arena[bot->arena.oid].push_back(bot);
    for (auto &[oid, guards] : by_arena) {
        if (auto *arena = ctx.get(cs::Ref<Arena>(oid))) think_in(ctx, *arena, guards);
    }
}

}  // namespace

CONNSERVER_PLUGIN("bots", "1.0.0") {
    plugin.kind<Visitor>();
    plugin.kind<Arena>();
    plugin.kind<Bot>();

    plugin.method("bots.enter", enter, "arena");
    plugin.method("bots.move", move, "x", "y").rate(20);
    plugin.internal("stand", stand, "visitor", "x", "y").create();
    plugin.method("bots.fill", fill, "arena", "count", cs::optional("seed", 1)).roles({"builder"});
    plugin.internal("filled", filled, "count", "seed").create();
    plugin.method("bots.report", report, "arena");
    plugin.internal("reported", reported).create();
    plugin.internal("was_caught", was_caught);
    plugin.every<Bot>("think", hz, think);
}
