"""Which system calls code in the sandbox may make: (number on x86-64, number on aarch64).

An allow list: whatever is not named here is refused. It was drawn up from what CPython, numpy and
asyncio use. Only numbers live here; the conditions on arguments are in ``confine``.
"""

ALLOWED = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286),
    "pwritev2": (328, 287), "open": (2, None), "openat": (257, 56), "close": (3, 57),
    "close_range": (436, 436), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44),
    "lseek": (8, 62), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None), "getdents64": (217,
    61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "mkdir": (83, None), "mkdirat":
    (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82,
    None), "renameat": (264, 38), "renameat2": (316, 276), "symlink": (88, None), "symlinkat":
    (266, 36), "link": (86, None), "linkat": (265, 37), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "fsync": (74, 82), "fdatasync": (75, 83), "fadvise64": (221, 223), "utime": (132, None),
    "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None), "copy_file_range":
    (326, 285), "sendfile": (40, 71), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "fcntl": (72, 25), "flock": (73, 32), "umask": (95, 166), "pipe": (22, None), "pipe2": (293,
    59), "getxattr": (191, 8), "lgetxattr": (192, 9), "fgetxattr": (193, 10), "listxattr": (194,
    11), "llistxattr": (195, 12), "flistxattr": (196, 13), "mmap": (9, 222), "munmap": (11, 215),
    "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214), "msync":
    (26, 227), "mincore": (27, 232), "membarrier": (324, 283), "getpid": (39, 172), "getppid":
    (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104,
    176), "getegid": (108, 177), "getpgid": (121, 155), "getpgrp": (111, None), "getsid": (124,
    156), "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150), "getrusage":
    (98, 165), "getpriority": (140, 141), "getrlimit": (97, 163), "times": (100, 153), "sysinfo":
    (99, 179), "uname": (63, 160), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_get_priority_max": (146,
    125), "sched_get_priority_min": (147, 126), "getcpu": (309, 168), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "set_tid_address": (218, 96), "rseq": (334, 293), "futex": (202,
    98), "futex_waitv": (449, 449), "exit": (60, 93), "exit_group": (231, 94), "arch_prctl": (158,
    None), "restart_syscall": (219, 128), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136), "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "wait4": (61, 260), "waitid": (247,
    95), "getrandom": (318, 278), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169), "time": (201,
    None), "alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102), "pause": (34,
    None), "timerfd_create": (283, 85), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait":
    (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441), "eventfd": (284, None),
    "eventfd2": (290, 19), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "shutdown": (48, 210), "getsockopt": (55, 209), "setsockopt": (54, 208),
    "getsockname": (51, 204), "getpeername": (52, 205),
}
"""Allowed with any arguments."""

SPECIAL = {
    "socketpair": (53, 199), "ioctl": (16, 29), "prctl": (157, 167), "prlimit64": (302, 261),
    "clone": (56, 220), "clone3": (435, 435), "seccomp": (317, 277), "landlock_create_ruleset":
    (444, 444), "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
}
"""Allowed for some arguments only, or needed while the sandbox is being set up."""
