/* A folder shown at another place, each of whose writes and fsyncs takes as long as a control file says: a disk that is slow.
 *
 *     slow_disk FOLDER CONTROL MOUNTPOINT -f
 *
 * CONTROL has two whole numbers, milliseconds a write (the kernel writes at most 1 MiB at a time) and milliseconds an fsync, which
 * creating, renaming and removing take too: on a journal's disk each of them is one. It is read again each time. */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

static const char *folder, *control;

#define AT(path)            \
  char at_##path[PATH_MAX]; \
  snprintf(at_##path, sizeof at_##path, "%s%s", folder, path)
#define DONE(call) return (call) == -1 ? -errno : 0

static void wait_for(int is_sync) {
  int write_ms = 0, sync_ms = 0;
  FILE *file = fopen(control, "r");
  if (file) {
    if (fscanf(file, "%d %d", &write_ms, &sync_ms) != 2) write_ms = sync_ms = 0;
    fclose(file);
  }
  int ms = is_sync ? sync_ms : write_ms;
  struct timespec left = {ms / 1000, (ms % 1000) * 1000000L};
  while (nanosleep(&left, &left) == -1 && errno == EINTR) {}
}

static int s_getattr(const char *path, struct stat *found, struct fuse_file_info *info) {
  (void)info;
  AT(path);
  DONE(lstat(at_path, found));
}

static int s_readdir(const char *path, void *into, fuse_fill_dir_t fill, off_t from, struct fuse_file_info *info,
                     enum fuse_readdir_flags flags) {
  (void)from, (void)info, (void)flags;
  AT(path);
  DIR *open = opendir(at_path);
  if (!open) return -errno;
  for (struct dirent *entry; (entry = readdir(open));)
    if (fill(into, entry->d_name, NULL, 0, 0)) break;
  closedir(open);
  return 0;
}

static int s_mkdir(const char *path, mode_t mode) {
  AT(path);
  wait_for(1);
  DONE(mkdir(at_path, mode));
}

static int s_unlink(const char *path) {
  AT(path);
  wait_for(1);
  DONE(unlink(at_path));
}

static int s_rmdir(const char *path) {
  AT(path);
  wait_for(1);
  DONE(rmdir(at_path));
}

static int s_rename(const char *one, const char *other, unsigned int flags) {
  AT(one);
  AT(other);
  wait_for(1);
  DONE(renameat2(AT_FDCWD, at_one, AT_FDCWD, at_other, flags));
}

static int s_link(const char *one, const char *other) {
  AT(one);
  AT(other);
  wait_for(1);
  DONE(link(at_one, at_other));
}

static int s_chmod(const char *path, mode_t mode, struct fuse_file_info *info) {
  (void)info;
  AT(path);
  DONE(chmod(at_path, mode));
}

static int s_truncate(const char *path, off_t size, struct fuse_file_info *info) {
  AT(path);
  DONE(info ? ftruncate((int)info->fh, size) : truncate(at_path, size));
}

static int s_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info) {
  (void)info;
  AT(path);
  DONE(utimensat(AT_FDCWD, at_path, times, AT_SYMLINK_NOFOLLOW));
}

static int s_create(const char *path, mode_t mode, struct fuse_file_info *info) {
  AT(path);
  wait_for(1);
  int file = open(at_path, info->flags | O_CREAT, mode);
  info->fh = (uint64_t)file;
  return file == -1 ? -errno : 0;
}

static int s_open(const char *path, struct fuse_file_info *info) {
  AT(path);
  int file = open(at_path, info->flags);
  info->fh = (uint64_t)file;
  return file == -1 ? -errno : 0;
}

static int s_read(const char *path, char *into, size_t size, off_t from, struct fuse_file_info *info) {
  (void)path;
  ssize_t done = pread((int)info->fh, into, size, from);
  return done == -1 ? -errno : (int)done;
}

static int s_write(const char *path, const char *what, size_t size, off_t from, struct fuse_file_info *info) {
  (void)path;
  wait_for(0);
  ssize_t done = pwrite((int)info->fh, what, size, from);
  return done == -1 ? -errno : (int)done;
}

static int s_release(const char *path, struct fuse_file_info *info) {
  (void)path;
  close((int)info->fh);
  return 0;
}

static int s_fsync(const char *path, int data_only, struct fuse_file_info *info) {
  (void)path, (void)data_only;
  wait_for(1);
  DONE(fsync((int)info->fh));
}

static int s_statfs(const char *path, struct statvfs *found) {
  AT(path);
  DONE(statvfs(at_path, found));
}

static const struct fuse_operations operations = {
    .getattr = s_getattr,   .readdir = s_readdir, .mkdir = s_mkdir,       .unlink = s_unlink, .rmdir = s_rmdir,
    .rename = s_rename,     .link = s_link,       .chmod = s_chmod,       .truncate = s_truncate,
    .utimens = s_utimens,   .create = s_create,   .open = s_open,         .read = s_read,     .write = s_write,
    .release = s_release,   .fsync = s_fsync,     .statfs = s_statfs,
};

int main(int argc, char *argv[]) {
  if (argc < 4) return 2;
  folder = argv[1], control = argv[2];
  argv[2] = argv[0];
  return fuse_main(argc - 2, argv + 2, &operations, NULL);
}
