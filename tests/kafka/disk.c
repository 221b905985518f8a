// A disk that fails, for whatever is started with this in LD_PRELOAD: what lies below the folder DISK fails as the file
// DISK_FAULT says, as long as there is one: `full`, with room for small files only, `read-only`, or `broken`, which cannot be read.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum access { READ, WRITE, SYNC, CHANGE, ROOM };

static int below(const char *path) {
    const char *disk = getenv("DISK");
    return disk && strncmp(path, disk, strlen(disk)) == 0;
}

// The error that this access has to give, or 0.
static int fault(const char *path, enum access access) {
    const char *file = getenv("DISK_FAULT");
    if (!file || !below(path)) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    char kind = 0;
    syscall(SYS_read, fd, &kind, 1);
    syscall(SYS_close, fd);
    switch (kind) {
        case 'f': return access == ROOM || (access == WRITE && strstr(path, ".sst")) ? ENOSPC : 0;
        case 'r': return access == WRITE || access == CHANGE ? EROFS : 0;
        case 'b': return access == READ || access == SYNC ? EIO : 0;
        default: return 0;
    }
}

static int fault_of(int fd, enum access access) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    int saved = errno, error = fault(path, access);
    errno = saved;
    return error;
}

#define FAIL_IF(error) do { int found = (error); if (found) { errno = found; return -1; } } while (0)

static int open_at(int directory, const char *path, int flags, mode_t mode) {
    if (flags & (O_WRONLY | O_RDWR | O_CREAT)) FAIL_IF(fault(path, CHANGE));
    return syscall(SYS_openat, directory, path, flags, mode);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & O_CREAT) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }

ssize_t pread(int fd, void *to, size_t count, off_t offset) {
    FAIL_IF(fault_of(fd, READ));
    return syscall(SYS_pread64, fd, to, count, offset);
}

ssize_t pread64(int fd, void *to, size_t count, off64_t offset) { return pread(fd, to, count, offset); }

ssize_t write(int fd, const void *from, size_t count) {
    FAIL_IF(fault_of(fd, WRITE));
    return syscall(SYS_write, fd, from, count);
}

ssize_t pwrite(int fd, const void *from, size_t count, off_t offset) {
    FAIL_IF(fault_of(fd, WRITE));
    return syscall(SYS_pwrite64, fd, from, count, offset);
}

ssize_t pwrite64(int fd, const void *from, size_t count, off64_t offset) { return pwrite(fd, from, count, offset); }

ssize_t writev(int fd, const struct iovec *from, int count) {
    FAIL_IF(fault_of(fd, WRITE));
    return syscall(SYS_writev, fd, from, count);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    FAIL_IF(fault_of(fd, WRITE));
    return syscall(SYS_fallocate, fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }

int fsync(int fd) {
    FAIL_IF(fault_of(fd, SYNC));
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    FAIL_IF(fault_of(fd, SYNC));
    return syscall(SYS_fdatasync, fd);
}

int rename(const char *from, const char *to) {
    FAIL_IF(fault(from, CHANGE));
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path) {
    FAIL_IF(fault(path, CHANGE));
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int mkdir(const char *path, mode_t mode) {
    FAIL_IF(fault(path, CHANGE));
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

// Who finds no room asks whether there is some again.
int statvfs(const char *path, struct statvfs *found) {
    int (*real)(const char *, struct statvfs *) = dlsym(RTLD_NEXT, "statvfs");
    int result = real(path, found);
    if (fault(path, ROOM)) found->f_bavail = found->f_bfree = 0;
    return result;
}

int statvfs64(const char *path, struct statvfs64 *found) { return statvfs(path, (struct statvfs *)found); }
