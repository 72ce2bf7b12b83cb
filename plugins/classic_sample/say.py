# Talking, as a module for an XMLSocket server says it: to a room, or to one user.

message = "say"


def process(server, socket, message):
    text = message["text"][:200]
    if message.get("to"):
        server.send_to(message["to"], {"msg": "whisper", "sender": socket.user, "text": text})
        server.send(socket, "told " + message["to"])
        return
    room = message.get("room", "lobby")
    server.join(socket, room)
    server.broadcast(room, "<" + socket.user + "> " + text)
    server.send(socket, {"room": room, "length": len(text)})
    if text == "help":
        server.send(socket, '<msg method="hint" text="say:to somebody, or room"/>')
