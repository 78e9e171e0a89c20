/*
 * A preload shim: makes disk calls of one program fail, fall short or dawdle, and shifts its wall clock.
 *
 * It is told what to do, and tells how often it did it, through one small file that all processes of the victim map
 * (RIDETHROUGH_SHIM names it). It decides nothing: `src/shim.rs` writes the rules and reads the counts, and its
 * constants stand for the ones below. It sees calls through the C library only: a program that is linked statically,
 * or makes system calls by itself, is out of its reach.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x314d494853545252ULL /* "RRTSHIM1" */
#define RULES 8

enum call { CALL_WRITE = 1, CALL_SYNC = 2, CALL_ALLOCATE = 4, CALL_CLOCK = 8 };
enum effect { EFFECT_FAIL = 1, EFFECT_SHORT = 2, EFFECT_DELAY = 3, EFFECT_SHIFT = 4 };

/* 512 bytes; all numbers in the machine's own order. */
struct rule {
  _Atomic uint64_t active;
  uint64_t calls;
  uint64_t effect;
  int64_t amount;    /* an errno, or milliseconds */
  uint64_t growing;  /* only where the file would grow */
  uint64_t hits_max; /* 0 is without end */
  _Atomic uint64_t hits;
  uint64_t unused;
  char below[448]; /* the files' paths start with this; empty for the clock */
};

struct control {
  uint64_t magic;
  _Atomic uint64_t loaded; /* programs that have mapped this file */
  char unused[496];
  struct rule rules[RULES];
};

static struct control *control;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_fallocate)(int, int, off64_t, off64_t);
static int (*real_posix_fallocate)(int, off64_t, off64_t);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

/* Other constructors may write before ours has run, so each call looks its original up where it must. */
#define REAL(name, symbol)                                    \
  do {                                                        \
    if (real_##name == NULL) {                                \
      *(void **)&real_##name = dlsym(RTLD_NEXT, symbol);      \
      if (real_##name == NULL) abort();                       \
    }                                                         \
  } while (0)

__attribute__((constructor)) static void load(void) {
  REAL(write, "write");
  REAL(pwrite, "pwrite64");
  REAL(writev, "writev");
  REAL(pwritev, "pwritev64");
  REAL(fsync, "fsync");
  REAL(fdatasync, "fdatasync");
  REAL(fallocate, "fallocate64");
  REAL(posix_fallocate, "posix_fallocate64");
  REAL(clock_gettime, "clock_gettime");
  const char *path = getenv("RIDETHROUGH_SHIM");
  if (path == NULL) return;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  struct stat status;
  if (fstat(fd, &status) == 0 && status.st_size >= (off_t)sizeof(struct control)) {
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED && ((struct control *)mapped)->magic == MAGIC) {
      control = mapped;
      atomic_fetch_add(&control->loaded, 1);
    }
  }
  close(fd);
}

/* Counts a hit, unless the rule has had all it may have. */
static int take(struct rule *rule) {
  uint64_t before = atomic_fetch_add(&rule->hits, 1);
  if (rule->hits_max == 0 || before < rule->hits_max) return 1;
  atomic_fetch_sub(&rule->hits, 1);
  return 0;
}

static int lies_below(int fd, const char *below) {
  char link[32], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strncmp(path, below, strlen(below)) == 0;
}

/* Whether writing `length` bytes makes the file longer; an `offset` below zero is the file's own position. */
static int grows(int fd, off64_t offset, size_t length) {
  struct stat status;
  if (fstat(fd, &status) != 0) return 0;
  if (offset < 0) {
    int flags = fcntl(fd, F_GETFL);
    offset = flags >= 0 && (flags & O_APPEND) ? status.st_size : lseek64(fd, 0, SEEK_CUR);
  }
  return offset >= 0 && offset + (off64_t)length > status.st_size;
}

/* The rule that this call meets, counted; NULL where it may do as it likes. Leaves errno alone. */
static struct rule *met(enum call call, int fd, off64_t offset, size_t length) {
  if (control == NULL) return NULL;
  int before = errno;
  struct rule *found = NULL;
  for (int at = 0; at < RULES && found == NULL; at++) {
    struct rule *rule = &control->rules[at];
    if (atomic_load_explicit(&rule->active, memory_order_acquire) == 0) continue;
    if ((rule->calls & call) == 0 || !lies_below(fd, rule->below)) continue;
    if (rule->growing && call == CALL_WRITE && !grows(fd, offset, length)) continue;
    if (take(rule)) found = rule;
  }
  errno = before;
  return found;
}

static void sleep_for(int64_t milliseconds) {
  struct timespec left = {milliseconds / 1000, (milliseconds % 1000) * 1000000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

/* What is left of a write of `*length` bytes: 0 to go on, else the errno to fail with. */
static int bent(enum call call, int fd, off64_t offset, size_t *length) {
  struct rule *rule = met(call, fd, offset, *length);
  if (rule == NULL) return 0;
  int before = errno;
  switch (rule->effect) {
    case EFFECT_FAIL:
      return (int)rule->amount;
    case EFFECT_SHORT:
      if (*length > 1) *length /= 2;
      break;
    case EFFECT_DELAY:
      sleep_for(rule->amount);
      break;
  }
  errno = before;
  return 0;
}

#define FAIL_WITH(error) \
  do {                   \
    errno = (error);     \
    return -1;           \
  } while (0)

ssize_t write(int fd, const void *bytes, size_t length) {
  REAL(write, "write");
  int error = bent(CALL_WRITE, fd, -1, &length);
  if (error != 0) FAIL_WITH(error);
  return real_write(fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  REAL(pwrite, "pwrite64");
  int error = bent(CALL_WRITE, fd, offset, &length);
  if (error != 0) FAIL_WITH(error);
  return real_pwrite(fd, bytes, length, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
  return pwrite64(fd, bytes, length, offset);
}

static size_t total(const struct iovec *pieces, int count) {
  size_t sum = 0;
  for (int at = 0; at < count; at++) sum += pieces[at].iov_len;
  return sum;
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
  REAL(writev, "writev");
  size_t all = total(pieces, count), length = all;
  int error = bent(CALL_WRITE, fd, -1, &length);
  if (error != 0) FAIL_WITH(error);
  /* Short by whole pieces, or within the only one. */
  if (length < all && count > 1) return real_writev(fd, pieces, count / 2);
  if (length < all) return real_write(fd, pieces[0].iov_base, length);
  return real_writev(fd, pieces, count);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) {
  REAL(pwritev, "pwritev64");
  REAL(pwrite, "pwrite64");
  size_t all = total(pieces, count), length = all;
  int error = bent(CALL_WRITE, fd, offset, &length);
  if (error != 0) FAIL_WITH(error);
  if (length < all && count > 1) return real_pwritev(fd, pieces, count / 2, offset);
  if (length < all) return real_pwrite(fd, pieces[0].iov_base, length, offset);
  return real_pwritev(fd, pieces, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
  return pwritev64(fd, pieces, count, offset);
}

int fsync(int fd) {
  REAL(fsync, "fsync");
  size_t length = 0;
  int error = bent(CALL_SYNC, fd, -1, &length);
  if (error != 0) FAIL_WITH(error);
  return real_fsync(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync, "fdatasync");
  size_t length = 0;
  int error = bent(CALL_SYNC, fd, -1, &length);
  if (error != 0) FAIL_WITH(error);
  return real_fdatasync(fd);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
  REAL(fallocate, "fallocate64");
  size_t asked = (size_t)length;
  int error = bent(CALL_ALLOCATE, fd, offset, &asked);
  if (error != 0) FAIL_WITH(error);
  return real_fallocate(fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

/* This one gives its error as the result. */
int posix_fallocate64(int fd, off64_t offset, off64_t length) {
  REAL(posix_fallocate, "posix_fallocate64");
  size_t asked = (size_t)length;
  int error = bent(CALL_ALLOCATE, fd, offset, &asked);
  return error != 0 ? error : real_posix_fallocate(fd, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

/* How far the wall clock is off, in milliseconds; each look counts. */
static int64_t shift(void) {
  if (control == NULL) return 0;
  int64_t sum = 0;
  for (int at = 0; at < RULES; at++) {
    struct rule *rule = &control->rules[at];
    if (atomic_load_explicit(&rule->active, memory_order_acquire) == 0) continue;
    if ((rule->calls & CALL_CLOCK) != 0 && take(rule)) sum += rule->amount;
  }
  return sum;
}

static void shift_by(struct timespec *now, int64_t milliseconds) {
  int64_t nanoseconds = now->tv_nsec + (milliseconds % 1000) * 1000000;
  now->tv_sec += milliseconds / 1000;
  if (nanoseconds < 0) {
    nanoseconds += 1000000000;
    now->tv_sec -= 1;
  } else if (nanoseconds >= 1000000000) {
    nanoseconds -= 1000000000;
    now->tv_sec += 1;
  }
  now->tv_nsec = nanoseconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime, "clock_gettime");
  int result = real_clock_gettime(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift_by(now, shift());
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone; /* Linux keeps none. */
  struct timespec precise;
  if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *into) {
  struct timespec precise;
  if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return (time_t)-1;
  if (into != NULL) *into = precise.tv_sec;
  return precise.tv_sec;
}
