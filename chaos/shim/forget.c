/*
 * A disk that forgets, for one program: what the program wrote to the files of one folder and had not synced when it
 * ended is undone when it starts again, as a power cut would have undone it. The page cache outlives a SIGKILL, so killing
 * a program alone never shows that it forgot to sync.
 *
 * Before each write it keeps what is about to be overwritten, and the file's length; a sync that came back forgets what was
 * kept for that file. Whatever is still kept when the program is loaded the next time is put back, the latest first.
 *
 * It sees write, pwrite, ftruncate, fsync and fdatasync of the C library. Names are out of its reach: what was created,
 * renamed or removed stays so. Room that was reserved stays reserved.
 *
 *   RIDETHROUGH_FORGETS       the folder, without links in its path
 *   RIDETHROUGH_FORGETS_LOG   a folder of this program alone, for what is kept
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_ftruncate)(int, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

static const char *below, *kept_in;
/* One at a time: what is kept and what is written must not be interleaved. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

/* The head of a file of what is kept, for one file of the program. */
struct head {
  uint64_t device, inode;
  char path[PATH_MAX];
};

/* One write; `length` bytes that stood at `offset` follow. */
struct entry {
  uint64_t offset, length, size;
};

#define REAL(name, symbol)                               \
  do {                                                   \
    if (real_##name == NULL) {                           \
      *(void **)&real_##name = dlsym(RTLD_NEXT, symbol); \
      if (real_##name == NULL) abort();                  \
    }                                                    \
  } while (0)

/* A run whose shim fails proves nothing, and must not look as if it did. */
static void must(int done, const char *what) {
  if (done) return;
  fprintf(stderr, "the disk that forgets failed to %s: %s\n", what, strerror(errno));
  abort();
}

static void put(int fd, const void *bytes, size_t length, off64_t offset) {
  while (length > 0) {
    ssize_t done = real_pwrite(fd, bytes, length, offset);
    if (done < 0 && errno == EINTR) continue;
    must(done > 0, "write");
    bytes = (const char *)bytes + done, length -= (size_t)done, offset += done;
  }
}

/* Whether all of it was there; an entry that a kill cut short is not. */
static int get(int fd, void *bytes, size_t length, off64_t offset) {
  while (length > 0) {
    ssize_t done = pread64(fd, bytes, length, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return 0;
    bytes = (char *)bytes + done, length -= (size_t)done, offset += done;
  }
  return 1;
}

/* The file of what is kept for this one, -1 where the file is none of ours. */
static int kept_of(int fd, struct stat *status) {
  if (below == NULL) return -1;
  char link[32];
  struct head head = {0}, known;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, head.path, sizeof head.path - 1);
  size_t prefix = strlen(below);
  if (length < 0 || strncmp(head.path, below, prefix) != 0 || head.path[prefix] != '/') return -1;
  if (fstat(fd, status) != 0 || !S_ISREG(status->st_mode)) return -1;
  head.device = status->st_dev, head.inode = status->st_ino;
  char name[PATH_MAX + 64];
  snprintf(name, sizeof name, "%s/%llx-%llx", kept_in, (long long)head.device, (long long)head.inode);
  int kept = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  must(kept >= 0, "keep what is overwritten");
  /* Another file may have had the same number before. */
  if (!get(kept, &known, sizeof known, 0) || strcmp(known.path, head.path) != 0) {
    must(real_ftruncate(kept, 0) == 0, "forget");
    put(kept, &head, sizeof head, 0);
  }
  return kept;
}

/* Keeps `length` bytes from `offset` on, as far as they are there. */
static void keep(int kept, int fd, const struct stat *status, off64_t offset, size_t length) {
  struct stat log;
  struct entry entry = {(uint64_t)offset, 0, (uint64_t)status->st_size};
  if (offset < status->st_size) {
    off64_t there = status->st_size - offset;
    entry.length = there < (off64_t)length ? (uint64_t)there : length;
  }
  char *bytes = malloc(sizeof entry + entry.length);
  must(bytes != NULL && fstat(kept, &log) == 0, "keep what is overwritten");
  /* The program may have opened its file for writing only. */
  char link[32];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  int reader = open(link, O_RDONLY | O_CLOEXEC);
  must(reader >= 0 && get(reader, bytes + sizeof entry, entry.length, offset), "read what is overwritten");
  close(reader);
  memcpy(bytes, &entry, sizeof entry);
  put(kept, bytes, sizeof entry + entry.length, log.st_size);
  free(bytes);
}

static void undo(const char *name) {
  int kept = open(name, O_RDWR | O_CLOEXEC);
  struct head head;
  if (kept < 0 || !get(kept, &head, sizeof head, 0)) {
    if (kept >= 0) close(kept);
    return;
  }
  int fd = open(head.path, O_RDWR | O_CLOEXEC);
  struct stat status;
  int same = fd >= 0 && fstat(fd, &status) == 0 && status.st_dev == head.device && status.st_ino == head.inode;
  size_t count = 0, room = 0;
  off64_t *places = NULL, at = sizeof head;
  struct entry entry;
  while (same && get(kept, &entry, sizeof entry, at)) {
    if (count == room) {
      room = room == 0 ? 64 : room * 2;
      places = realloc(places, room * sizeof *places);
      must(places != NULL, "remember");
    }
    places[count++] = at;
    at += (off64_t)(sizeof entry + entry.length);
  }
  while (count > 0) {
    at = places[--count];
    must(get(kept, &entry, sizeof entry, at), "read what was kept");
    char *bytes = malloc(entry.length + 1);
    must(bytes != NULL, "remember");
    if (get(kept, bytes, entry.length, at + (off64_t)sizeof entry)) {
      put(fd, bytes, entry.length, (off64_t)entry.offset);
      must(real_ftruncate(fd, (off64_t)entry.size) == 0, "give a file its length back");
    }
    free(bytes);
  }
  free(places);
  if (fd >= 0) close(fd);
  must(real_ftruncate(kept, 0) == 0, "forget");
  close(kept);
}

__attribute__((constructor)) static void load(void) {
  REAL(write, "write");
  REAL(pwrite, "pwrite64");
  REAL(ftruncate, "ftruncate64");
  REAL(fsync, "fsync");
  REAL(fdatasync, "fdatasync");
  const char *folder = getenv("RIDETHROUGH_FORGETS"), *log = getenv("RIDETHROUGH_FORGETS_LOG");
  if (folder == NULL || log == NULL) return;
  kept_in = log;
  DIR *all = opendir(log);
  must(all != NULL, "open the folder for what is kept");
  for (struct dirent *one = readdir(all); one != NULL; one = readdir(all)) {
    char name[PATH_MAX + 64];
    snprintf(name, sizeof name, "%s/%s", log, one->d_name);
    if (one->d_name[0] != '.') undo(name);
  }
  closedir(all);
  below = folder;
}

ssize_t write(int fd, const void *bytes, size_t length) {
  REAL(write, "write");
  if (below == NULL) return real_write(fd, bytes, length);
  int before = errno;
  struct stat status;
  pthread_mutex_lock(&turn);
  int kept = kept_of(fd, &status);
  if (kept >= 0) {
    int flags = fcntl(fd, F_GETFL);
    off64_t offset = flags >= 0 && (flags & O_APPEND) ? status.st_size : lseek64(fd, 0, SEEK_CUR);
    if (offset >= 0) keep(kept, fd, &status, offset, length);
    close(kept);
  }
  errno = before;
  /* Whoever writes to a pipe may wait in it, and nobody else may wait for that. */
  if (kept < 0) pthread_mutex_unlock(&turn);
  ssize_t done = real_write(fd, bytes, length);
  if (kept >= 0) pthread_mutex_unlock(&turn);
  return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  REAL(pwrite, "pwrite64");
  if (below == NULL) return real_pwrite(fd, bytes, length, offset);
  int before = errno;
  struct stat status;
  pthread_mutex_lock(&turn);
  int kept = kept_of(fd, &status);
  if (kept >= 0) {
    keep(kept, fd, &status, offset, length);
    close(kept);
  }
  errno = before;
  ssize_t done = real_pwrite(fd, bytes, length, offset);
  pthread_mutex_unlock(&turn);
  return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
  return pwrite64(fd, bytes, length, offset);
}

int ftruncate64(int fd, off64_t size) {
  REAL(ftruncate, "ftruncate64");
  if (below == NULL) return real_ftruncate(fd, size);
  int before = errno;
  struct stat status;
  pthread_mutex_lock(&turn);
  int kept = kept_of(fd, &status);
  if (kept >= 0) {
    size_t cut = size < status.st_size ? (size_t)(status.st_size - size) : 0;
    keep(kept, fd, &status, size, cut);
    close(kept);
  }
  errno = before;
  int done = real_ftruncate(fd, size);
  pthread_mutex_unlock(&turn);
  return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int synced(int fd, int (*real)(int)) {
  if (below == NULL) return real(fd);
  struct stat status;
  pthread_mutex_lock(&turn);
  int done = real(fd);
  int before = errno;
  int kept = done == 0 ? kept_of(fd, &status) : -1;
  if (kept >= 0) {
    must(real_ftruncate(kept, sizeof(struct head)) == 0, "forget");
    close(kept);
  }
  errno = before;
  pthread_mutex_unlock(&turn);
  return done;
}

int fsync(int fd) {
  REAL(fsync, "fsync");
  return synced(fd, real_fsync);
}

int fdatasync(int fd) {
  REAL(fdatasync, "fdatasync");
  return synced(fd, real_fdatasync);
}
