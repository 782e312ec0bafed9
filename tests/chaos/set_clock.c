/* LD_PRELOADed: the wall clock of a process is the machine's and as many whole seconds as the file $SET_CLOCK begins with, which is
 * looked at each time. What only passes (CLOCK_MONOTONIC, CLOCK_BOOTTIME) stays the machine's, as when a clock is set; so do sleeps.
 * libfaketime 0.9.10 does not: under it CPython 3.11's time.sleep fails now and then (clock_nanosleep, EINVAL). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FILE_BYTES 16
#define WALL_S 1000000000L /* a moment behind it is one of the wall clock: no machine runs for thirty years */

static const char *content;

__attribute__((constructor)) static void begin(void) {
  const char *name = getenv("SET_CLOCK");
  int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
  if (file == -1) return;
  void *mapped = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) content = mapped;
}

static long ahead_s(void) { return content ? strtol(content, NULL, 10) : 0; }

#define REAL(name, version) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlvsym(RTLD_NEXT, #name, version)

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime, "GLIBC_2.17");
  int failed = real(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead_s();
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  now->tv_sec = found.tv_sec, now->tv_usec = found.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *into) {
  struct timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (into) *into = found.tv_sec;
  return found.tv_sec;
}

/* Waits until a moment of the wall clock: the kernel knows the machine's. */
static struct timespec machines(const struct timespec *until) {
  struct timespec moment = *until;
  if (moment.tv_sec > WALL_S) moment.tv_sec -= ahead_s();
  return moment;
}

int pthread_cond_timedwait(pthread_cond_t *restrict one, pthread_mutex_t *restrict lock, const struct timespec *restrict until) {
  REAL(pthread_cond_timedwait, "GLIBC_2.3.2");
  struct timespec moment = machines(until);
  return real(one, lock, &moment);
}

int sem_timedwait(sem_t *restrict one, const struct timespec *restrict until) {
  static int (*real)(sem_t *, const struct timespec *);
  if (!real) real = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
  struct timespec moment = machines(until);
  return real(one, &moment);
}
