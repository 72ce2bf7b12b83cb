/* The floor: what the kernel alone costs for the same traffic.
 *
 * usage: epoll_server PORT echo|fan
 *
 * echo: every NUL-terminated frame goes back to its sender.
 * fan:  every frame goes to all connections (one write per connection and read).
 * Reads until EAGAIN, answers each read with one write; nothing is parsed, nothing is kept. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 20000
#define CHUNK 65536

static int open_connections[CONNECTIONS];
static int place_of[1 << 16];
static int connections;

static void forget(int fd) {
    int place = place_of[fd], last = open_connections[--connections];
    open_connections[place] = last;
    place_of[last] = place;
    close(fd);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: epoll_server PORT echo|fan\n");
        return 2;
    }
    int fan = strcmp(argv[2], "fan") == 0, one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        perror("epoll_server");
        return 1;
    }
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[512];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    static char chunk[CHUNK];
    for (;;) {
        int count = epoll_wait(poll, ready, 512, -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                int client;
                while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (connections == CONNECTIONS || client >= 1 << 16) {
                        close(client);
                        continue;
                    }
                    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    place_of[client] = connections;
                    open_connections[connections++] = client;
                    event.events = EPOLLIN;
                    event.data.fd = client;
                    epoll_ctl(poll, EPOLL_CTL_ADD, client, &event);
                }
                continue;
            }
            ssize_t size = read(fd, chunk, CHUNK);
            if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) {
                forget(fd);
                continue;
            }
            if (size < 0)
                continue;
            if (!fan) {
                if (write(fd, chunk, (size_t)size) < 0 && errno != EAGAIN)
                    forget(fd);
                continue;
            }
            for (int other = 0; other < connections; other++)
                if (write(open_connections[other], chunk, (size_t)size) < 0 && errno != EAGAIN)
                    perror("write");
        }
    }
}
