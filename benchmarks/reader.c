/* The reader of the benchmarks: small, so that it is the file system that is measured.
 *
 *   reader read LIST READERS PASSES   open + fstat + read to the end + close of each file of LIST (a path a line), in that
 *                                     order, shared out over READERS processes, PASSES times
 *   reader stat LIST READERS PASSES   lstat of each, the same way
 *   reader make LIST READERS 1        make each as an empty file (its folder is there)
 *   reader readdir FOLDER             list a whole tree without asking for attributes
 *   reader walk FOLDER                list a whole tree and lstat every entry
 *
 * Prints one line: nanoseconds, files, bytes. What fails is said on stderr, and the exit code is 1: no figure then.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 20)

struct done {
	int64_t end_ns, files, bytes;
};

static int64_t now_ns(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t read_file(const char *path, char *buffer)
{
	struct stat status;
	int64_t total = 0;
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &status))
		fail(path);
	while ((got = read(fd, buffer, BUFFER)) > 0)
		total += got;
	if (got < 0)
		fail(path);
	if (total != status.st_size) {
		errno = EIO;
		fail(path);
	}
	close(fd);
	return total;
}

static int64_t stat_file(const char *path)
{
	struct stat status;

	if (lstat(path, &status))
		fail(path);
	return status.st_size;
}

static int64_t make_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd < 0 || close(fd))
		fail(path);
	return 0;
}

static void tree(int folder, const char *name, int with_stat, struct done *done)
{
	struct dirent *entry;
	struct stat status;
	DIR *opened = fdopendir(folder);

	if (!opened)
		fail(name);
	while (errno = 0, (entry = readdir(opened))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (with_stat) {
			if (fstatat(folder, entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
				fail(entry->d_name);
			done->bytes += status.st_size;
		}
		if (entry->d_type == DT_DIR) {
			int below = openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			if (below < 0)
				fail(entry->d_name);
			tree(below, entry->d_name, with_stat, done);
		} else {
			done->files++;
		}
	}
	if (errno)
		fail(name);
	closedir(opened);
}

static char *load(const char *path, char ***lines, int64_t *count)
{
	struct stat status;
	int64_t size = 0, room = 1 << 16;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text, *at, *end;

	if (fd < 0 || fstat(fd, &status))
		fail(path);
	text = malloc(status.st_size + 1);
	while (size < status.st_size) {
		ssize_t got = read(fd, text + size, status.st_size - size);
		if (got <= 0)
			fail(path);
		size += got;
	}
	close(fd);
	*lines = malloc(room * sizeof(char *));
	*count = 0;
	for (at = text; at < text + size; at = end + 1) {
		end = memchr(at, '\n', text + size - at);
		if (!end)
			end = text + size;
		*end = 0;
		if (*count == room)
			*lines = realloc(*lines, (room *= 2) * sizeof(char *));
		(*lines)[(*count)++] = at;
	}
	return text;
}

static void work(char what, char **lines, int64_t count, int place, int readers, int passes, struct done *done)
{
	char *buffer = malloc(BUFFER);

	memset(buffer, 0, BUFFER); /* its page faults are not the file system's */
	while (passes--) {
		for (int64_t at = place; at < count; at += readers) {
			done->bytes += what == 'r' ? read_file(lines[at], buffer)
				     : what == 's' ? stat_file(lines[at]) : make_file(lines[at]);
			done->files++;
		}
	}
	done->end_ns = now_ns();
}

static int shared_out(char what, const char *list, int readers, int passes)
{
	char **lines, byte;
	int gate[2], status, failed = 0;
	int64_t count, start, end = 0, files = 0, bytes = 0;
	struct done *done = mmap(NULL, readers * sizeof(*done), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	load(list, &lines, &count);
	if (done == MAP_FAILED || pipe(gate))
		fail("the gate");
	for (int place = 0; place < readers; place++) {
		pid_t child = fork();
		if (child < 0)
			fail("fork");
		if (child == 0) {
			close(gate[1]);
			(void)!read(gate[0], &byte, 1); /* all start when the parent closes its end */
			work(what, lines, count, place, readers, passes, &done[place]);
			_exit(0);
		}
	}
	close(gate[0]);
	usleep(20000);
	start = now_ns();
	close(gate[1]);
	for (int place = 0; place < readers; place++) {
		if (wait(&status) < 0 || status)
			failed = 1;
	}
	if (failed)
		return 1;
	for (int place = 0; place < readers; place++) {
		files += done[place].files;
		bytes += done[place].bytes;
		if (done[place].end_ns > end)
			end = done[place].end_ns;
	}
	printf("%lld %lld %lld\n", (long long)(end - start), (long long)files, (long long)bytes);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 5 && strchr("rsm", argv[1][0])) {
		int readers = atoi(argv[3]), passes = atoi(argv[4]);
		if (readers >= 1 && readers <= 1024 && passes >= 1)
			return shared_out(argv[1][0], argv[2], readers, passes);
	} else if (argc == 3 && (!strcmp(argv[1], "walk") || !strcmp(argv[1], "readdir"))) {
		struct done done = {0};
		int64_t start = now_ns();
		int folder = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (folder < 0)
			fail(argv[2]);
		tree(folder, argv[2], argv[1][0] == 'w', &done);
		printf("%lld %lld %lld\n", (long long)(now_ns() - start), (long long)done.files, (long long)done.bytes);
		return 0;
	}
	fprintf(stderr, "usage: reader read|stat|make LIST READERS PASSES | reader walk|readdir FOLDER\n");
	return 2;
}
