/* Makes calls of the system fail, for programs that are started with this library in LD_PRELOAD.
 *
 * Calls that change files below one folder are counted, and so are allocations from a given size on. The n-th one, or
 * all from the n-th on, fail as a full or broken disk, or a lack of memory, would make them fail. Counters are in memory
 * that processes forked later share, so the parent reads what its child did.
 *
 * Not seen: what glibc does inside itself (the buffered output of FILE, stacks of threads), and files written through
 * mmap. retinasdk uses none of them for its outputs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* NO_SPACE: calls that need space on the disk fail with ENOSPC, the others work. A write that fails has written a half,
 * as on a real disk. BROKEN: all calls fail, those that need space with ENOSPC and the others with EIO. KILL: SIGKILL
 * comes before the call, or in the middle of a write. */
enum Mode { COUNT, NO_SPACE, BROKEN, KILL };

struct State {
  char folder[PATH_MAX];
  enum Mode mode;
  long first, last, alloc_first, alloc_last;
  size_t alloc_size;
  atomic_long calls, allocations;
  char failed[PATH_MAX + 32]; /* The first call that failed, with its file. */
};
static struct State* state;

__attribute__((constructor)) static void start(void) {
  long pages = (long)sizeof(struct State);
  void* shared = (void*)syscall(SYS_mmap, NULL, pages, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0L);
  if (shared != MAP_FAILED) state = shared;
}

/* Stops counting and failing, and sets the counters to 0. */
void faults_reset(void) { memset(state, 0, sizeof *state); }
long faults_calls(void) { return state->calls; }
long faults_allocations(void) { return state->allocations; }
const char* faults_failed(void) { return state->failed; }

/* Fails calls `first` to `last` that change files below the folder, counted from 1. */
void faults_in_files(const char* folder, int mode, long first, long last) {
  snprintf(state->folder, sizeof state->folder, "%s", folder);
  state->mode = (enum Mode)mode;
  state->first = first;
  state->last = last;
}

/* Fails allocations `first` to `last` of at least `size` bytes, counted from 1. */
void faults_in_memory(size_t size, long first, long last) {
  state->alloc_first = first;
  state->alloc_last = last;
  state->alloc_size = size;
}

/* -- files -------------------------------------------------------------------------------------------------------- */

static int is_below(const char* path) {
  size_t length = strlen(state->folder);
  return length > 0 && strncmp(path, state->folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int resolve(int folder, const char* path, char* whole) {
  if (path[0] == '/') return snprintf(whole, PATH_MAX, "%s", path);
  char link[64], base[PATH_MAX - 256];
  if (folder == AT_FDCWD) {
    snprintf(link, sizeof link, "/proc/self/cwd");
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  }
  long length = readlink(link, base, sizeof base - 1);
  base[length < 0 ? 0 : length] = 0;
  return snprintf(whole, PATH_MAX, "%s%s%.200s", base, path[0] ? "/" : "", path);
}

/* Counts a call. Returns 0, or the error with which it fails. */
static int fault(const char* call, int folder, const char* path, int needs_space) {
  if (state == NULL || state->folder[0] == 0) return 0;
  char whole[PATH_MAX];
  int before = errno;
  resolve(folder, path, whole);
  errno = before;
  if (!is_below(whole)) return 0;
  long number = ++state->calls;
  if (number < state->first || number > state->last || state->mode == COUNT) return 0;
  if (state->mode == NO_SPACE && !needs_space) return 0;
  if (state->failed[0] == 0) snprintf(state->failed, sizeof state->failed, "%s %s", call, whole);
  if (state->mode == KILL && strstr(call, "write") == NULL) kill(getpid(), SIGKILL);
  return needs_space ? ENOSPC : EIO;
}

#define FAIL_IF(call, folder, path, needs_space)              \
  do {                                                        \
    int error = fault(call, folder, path, needs_space);       \
    if (error != 0) return errno = error, -1;                 \
  } while (0)

static int opened(int folder, const char* path, int flags, mode_t mode) {
  if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT) != 0) FAIL_IF("open", folder, path, 1);
  return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define OPEN(name, parameters, folder)                                  \
  int name parameters {                                                 \
    va_list rest;                                                       \
    va_start(rest, flags);                                              \
    mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                       \
    return opened(folder, path, flags, mode);                           \
  }
OPEN(open, (const char* path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char* path, int flags, ...), AT_FDCWD)
OPEN(openat, (int folder, const char* path, int flags, ...), folder)
OPEN(openat64, (int folder, const char* path, int flags, ...), folder)

static FILE* opened_file(const char* name, const char* path, const char* mode) {
  int error = mode[0] == 'r' && strchr(mode, '+') == NULL ? 0 : fault("fopen", AT_FDCWD, path, 1);
  if (error != 0) return errno = error, NULL;
  FILE* (*real)(const char*, const char*) = (FILE * (*)(const char*, const char*)) dlsym(RTLD_NEXT, name);
  return real(path, mode);
}
FILE* fopen(const char* path, const char* mode) { return opened_file("fopen", path, mode); }
FILE* fopen64(const char* path, const char* mode) { return opened_file("fopen64", path, mode); }

/* Where a write fails, a half of it is written before. */
static int write_fault(const char* call, int file, const void* data, size_t size) {
  int error = fault(call, file, "", 1);
  if (error == 0) return 0;
  if (size > 1) {
    ssize_t ignored = syscall(SYS_write, file, data, size / 2);
    (void)ignored;
  }
  if (state->mode == KILL) kill(getpid(), SIGKILL);
  return error;
}

ssize_t write(int file, const void* data, size_t size) {
  int error = write_fault("write", file, data, size);
  return error != 0 ? (errno = error, -1) : syscall(SYS_write, file, data, size);
}
ssize_t writev(int file, const struct iovec* parts, int count) {
  int error = write_fault("writev", file, parts[0].iov_base, parts[0].iov_len);
  return error != 0 ? (errno = error, -1) : syscall(SYS_writev, file, parts, count);
}
ssize_t pwrite(int file, const void* data, size_t size, off_t offset) {
  int error = write_fault("pwrite", file, data, 0);
  return error != 0 ? (errno = error, -1) : syscall(SYS_pwrite64, file, data, size, offset);
}
ssize_t pwrite64(int file, const void* data, size_t size, off_t offset) { return pwrite(file, data, size, offset); }

int fsync(int file) {
  FAIL_IF("fsync", file, "", 0);
  return (int)syscall(SYS_fsync, file);
}
int fdatasync(int file) {
  FAIL_IF("fdatasync", file, "", 0);
  return (int)syscall(SYS_fdatasync, file);
}
int ftruncate(int file, off_t size) {
  FAIL_IF("ftruncate", file, "", 0);
  return (int)syscall(SYS_ftruncate, file, size);
}
int ftruncate64(int file, off_t size) { return ftruncate(file, size); }

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) {
  FAIL_IF("rename", to_folder, to, 0);
  return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
}
int renameat(int from_folder, const char* from, int to_folder, const char* to) {
  return renameat2(from_folder, from, to_folder, to, 0);
}
int rename(const char* from, const char* to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) {
  FAIL_IF("link", to_folder, to, 1);
  return (int)syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
}
int link(const char* from, const char* to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char* path, int flags) {
  FAIL_IF((flags & AT_REMOVEDIR) != 0 ? "rmdir" : "unlink", folder, path, 0);
  return (int)syscall(SYS_unlinkat, folder, path, flags);
}
int unlink(const char* path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char* path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char* path, mode_t mode) {
  FAIL_IF("mkdir", folder, path, 1);
  return (int)syscall(SYS_mkdirat, folder, path, mode);
}
int mkdir(const char* path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* -- memory ------------------------------------------------------------------------------------------------------- */

void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* block, size_t size);
void* __libc_memalign(size_t alignment, size_t size);

static int no_memory(size_t size) {
  if (state == NULL || state->alloc_size == 0 || size < state->alloc_size) return 0;
  long number = ++state->allocations;
  return number >= state->alloc_first && number <= state->alloc_last;
}

void* malloc(size_t size) { return no_memory(size) ? (errno = ENOMEM, NULL) : __libc_malloc(size); }
void* calloc(size_t count, size_t size) {
  return no_memory(count * size) ? (errno = ENOMEM, NULL) : __libc_calloc(count, size);
}
void* realloc(void* block, size_t size) { return no_memory(size) ? (errno = ENOMEM, NULL) : __libc_realloc(block, size); }
void* memalign(size_t alignment, size_t size) {
  return no_memory(size) ? (errno = ENOMEM, NULL) : __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void** block, size_t alignment, size_t size) {
  void* made = memalign(alignment, size);
  if (made == NULL) return ENOMEM;
  return *block = made, 0;
}
void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) {
  if ((flags & MAP_ANONYMOUS) != 0 && no_memory(size)) return errno = ENOMEM, MAP_FAILED;
  return (void*)syscall(SYS_mmap, address, size, protection, flags, file, offset);
}
void* mmap64(void* address, size_t size, int protection, int flags, int file, off_t offset) {
  return mmap(address, size, protection, flags, file, offset);
}
