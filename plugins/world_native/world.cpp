// The sample `world` once more, in C++: the same methods on the same stored objects, so that either may be
// attached to a world that the other one made. plugins/world/main.py says what the rules are and why.

#include <algorithm>
#include <cmath>

#include "connserver.hpp"

namespace {

constexpr std::size_t bag_size = 64;
constexpr std::size_t ground_size = 1000;

struct Player : cs::Object {
    static constexpr const char *kind = "player";
    static constexpr std::uint32_t schema = 2;
    std::string zone = "z0";
    std::int64_t gold = 0;
    std::vector<std::string> bag;
    std::map<std::string, std::int64_t> offers;
    double x = 0;
    template <class F> void fields(F &field) {
        field("zone", zone);
        field("gold", gold);
        field("bag", bag);
        field("offers", offers);
        field("x", x, cs::transient);
    }
};

struct Thing : cs::Object {
    static constexpr const char *kind = "thing";
    std::string zone, name;
    bool npc = false;
    double x = 0;
    template <class F> void fields(F &field) {
        field("zone", zone, cs::required);
        field("name", name, cs::required);
        field("npc", npc, cs::indexed);
        field("x", x, cs::transient);
    }
};

struct Zone : cs::Object {
    static constexpr const char *kind = "zone";
    std::vector<std::string> ground;
    template <class F> void fields(F &field) { field("ground", ground); }
};

// --- rules ------------------------------------------------------------------------------------------------

cs::Ref<Zone> zone_of(cs::Context &ctx, const Player &me) { return ctx.named<Zone>(me.zone); }

void check_name(const std::string &name) {
    const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-'; };
    if (name.empty() || name.size() > 32 || name[0] < 'a' || name[0] > 'z' ||
        !std::all_of(name.begin(), name.end(), plain)) {
        throw cs::Refused("world.bad_name", "at most 32 of a-z, 0-9, '_' and '-', a letter first");
    }
}

void check_room(const Player &me) {
    if (me.bag.size() >= bag_size) throw cs::Refused("world.bag_full");
}

void take_out(Player &me, const std::string &thing) {
    const auto found = std::find(me.bag.begin(), me.bag.end(), thing);
    if (found == me.bag.end()) throw cs::Refused("world.not_yours");
    me.bag.erase(found);
}

// --- moving and looking -----------------------------------------------------------------------------------

void arrive(cs::Context &ctx, Player &me) { ctx.room(me.zone).join(me); }

void move(cs::Context &ctx, Player &me, double x) {
    if (std::abs(x - me.x) > 2) throw cs::Refused("world.too_fast");
    me.x = x;
    ctx.room(me.zone).update("pos", cs::Fields{{"x", x}}, x, 0);
}

cs::Fields go(cs::Context &ctx, Player &me, const std::string &zone) {
    check_name(zone);
    if (zone != me.zone) {
        ctx.room(me.zone).leave(me);
        ctx.room(zone).join(me);
        me.zone = zone;
        me.x = 0;
    }
    return {{"zone", zone}};
}

cs::Reply look(cs::Context &ctx, Player &me) { return ctx.call(zone_of(ctx, me), "show"); }

cs::Fields show(cs::Context &ctx, Zone &me) {
    cs::Array npcs;
    for (const auto *npc : ctx.where<Thing>({{"npc", true}})) {
        if (npc->zone != me.named) continue;
        npcs.push_back(cs::Fields{{"oid", cs::Ref<Thing>(*npc)}, {"name", npc->name}, {"x", npc->x}});
    }
    return {{"zone", me.named}, {"things", me.ground}, {"npcs", npcs}};
}

cs::Fields inventory(cs::Context &, Player &me) {
    return {{"gold", me.gold}, {"bag", me.bag}, {"offers", me.offers}};
}

// --- things: bag, ground, other players -------------------------------------------------------------------

cs::Reply take(cs::Context &ctx, Player &me, const std::string &thing) {
    check_room(me);
    return ctx.call(zone_of(ctx, me), "lift", {{"thing", thing}}, "taken");
}

void lift(cs::Context &ctx, Zone &me, const std::string &thing) {
    const auto found = std::find(me.ground.begin(), me.ground.end(), thing);
    if (found == me.ground.end()) throw cs::Refused("world.not_here");
    me.ground.erase(found);
    ctx.room(me.named).send({{"event", "taken"}, {"thing", thing}});
}

cs::Result taken(cs::Context &, Player &me, const cs::Result &result, const std::string &thing) {
    if (result.ok) me.bag.push_back(thing);
    return result;
}

cs::Reply drop(cs::Context &ctx, Player &me, const std::string &thing) {
    take_out(me, thing);
    return ctx.call(zone_of(ctx, me), "lay", {{"thing", thing}}, "back_if_refused");
}

void lay(cs::Context &ctx, Zone &me, const std::string &thing) {
    if (me.ground.size() >= ground_size) throw cs::Refused("world.ground_full");
    me.ground.push_back(thing);
    ctx.room(me.named).send({{"event", "dropped"}, {"thing", thing}});
}

cs::Reply give(cs::Context &ctx, Player &me, const cs::Ref<Player> &to, const std::string &thing) {
    take_out(me, thing);
    return ctx.call(to, "receive", {{"thing", thing}}, "back_if_refused");
}

void receive(cs::Context &ctx, Player &me, const std::string &thing) {
    check_room(me);
    me.bag.push_back(thing);
    ctx.tell(me, "world.received", {{"thing", thing}, {"giver", ctx.user_name()}});
}

cs::Result back_if_refused(cs::Context &, Player &me, const cs::Result &result, const std::string &thing) {
    if (!result.ok) me.bag.push_back(thing);
    return result;
}

// --- trade ------------------------------------------------------------------------------------------------

void offer(cs::Context &, Player &me, const std::string &thing, std::int64_t price) {
    if (price < 0 || me.offers.count(thing)) throw cs::Refused("trade.bad_offer");
    take_out(me, thing);
    me.offers[thing] = price;
}

void withdraw(cs::Context &, Player &me, const std::string &thing) {
    if (me.offers.erase(thing) == 0) throw cs::Refused("trade.gone");
    me.bag.push_back(thing);
}

cs::Reply offers(cs::Context &ctx, Player &, const cs::Ref<Player> &seller) {
    return ctx.call(seller, "list_offers");
}

cs::Fields list_offers(cs::Context &, Player &me) {
    cs::Array listed;
    for (const auto &[thing, price] : me.offers) listed.push_back(cs::Fields{{"thing", thing}, {"price", price}});
    return {{"offers", listed}};
}

cs::Reply buy(cs::Context &ctx, Player &me, const cs::Ref<Player> &seller, const std::string &thing,
              std::int64_t price) {
    if (price < 0 || price > me.gold) throw cs::Refused("trade.too_poor");
    me.gold -= price;  // escrow, committed with the call that leaves
    return ctx.call(seller, "hand_over", {{"thing", thing}, {"price", price}}, "settle");
}

void hand_over(cs::Context &, Player &me, const std::string &thing, std::int64_t price) {
    const auto found = me.offers.find(thing);
    if (found == me.offers.end() || found->second != price) throw cs::Refused("trade.gone");
    me.offers.erase(found);
    me.gold += price;
}

cs::Result settle(cs::Context &, Player &me, const cs::Result &result, const std::string &thing,
                  std::int64_t price) {
    if (result.ok) me.bag.push_back(thing);
    else me.gold += price;
    return result;
}

// --- builders and the world's own life --------------------------------------------------------------------

cs::Reply place(cs::Context &ctx, Player &me, const std::string &thing) {
    check_name(thing);
    return ctx.call(zone_of(ctx, me), "lay", {{"thing", thing}});
}

cs::Reply spawn(cs::Context &ctx, Player &me, const std::string &name) {
    return ctx.call(zone_of(ctx, me), "spawn_here", {{"name", name}});
}

cs::Fields spawn_here(cs::Context &ctx, Zone &me, const std::string &name) {
    Thing npc;
    npc.zone = me.named;
    npc.name = name;
    npc.npc = true;
    return {{"oid", cs::Ref<Thing>(ctx.create(npc))}};
}

void think(cs::Context &ctx) {
    for (auto *npc : ctx.where<Thing>({{"npc", true}})) npc->x += ctx.uniform(-1, 1) * ctx.dt();
}

/// In schema 1 a bag was one text with commas.
cs::Fields bags_were_text(cs::Fields fields) {
    const auto *bag = fields.find("bag");
    const auto *text = bag ? bag->as<std::string>() : nullptr;
    if (text == nullptr && bag != nullptr) return fields;
    cs::Array things;
    for (std::size_t at = 0; text != nullptr && at < text->size();) {
        const auto end = std::min(text->find(',', at), text->size());
        if (end > at) things.push_back(text->substr(at, end - at));
        at = end + 1;
    }
    fields.set("bag", things);
    return fields;
}

}  // namespace

CONNSERVER_PLUGIN("world", "2.0.0") {
    plugin.kind<Player>();
    plugin.kind<Thing>();
    plugin.kind<Zone>();
    plugin.migrate("player", 2, bags_were_text);

    plugin.on_join("arrive", arrive);
    plugin.method("world.move", move, "x").rate(20);
    plugin.method("world.go", go, "zone");
    plugin.method("world.look", look);
    plugin.internal("show", show).create();
    plugin.method("world.inventory", inventory);

    plugin.method("world.take", take, "thing");
    plugin.internal("lift", lift, "thing").create();
    plugin.internal("taken", taken, "thing");
    plugin.method("world.drop", drop, "thing");
    plugin.internal("lay", lay, "thing").create();
    plugin.method("world.give", give, "to", "thing");
    plugin.internal("receive", receive, "thing");
    plugin.internal("back_if_refused", back_if_refused, "thing");

    plugin.method("trade.offer", offer, "thing", "price");
    plugin.method("trade.withdraw", withdraw, "thing");
    plugin.method("trade.offers", offers, "seller");
    plugin.internal("list_offers", list_offers);
    plugin.method("trade.buy", buy, "seller", "thing", "price");
    plugin.internal("hand_over", hand_over, "thing", "price");
    plugin.internal("settle", settle, "thing", "price");

    plugin.method("world.place", place, "thing").roles({"builder"});
    plugin.method("world.spawn", spawn, "name").roles({"builder"});
    plugin.internal("spawn_here", spawn_here, "name").create();
    plugin.every<Thing>("think", 5, think, {{"npc", true}});
}
