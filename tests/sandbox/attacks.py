"""Programs that attack: each passes only if what it tries succeeds (or never ends), and names itself in /proc first.

{outside} is a folder that everyone may write to, {marker} the name, {port} and {socket} where somebody listens, {pid} a
process of the user who runs the sandbox, {temporary} a file in /tmp.
"""

NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'{marker}', 0, 0, 0)\n"  # PR_SET_NAME; forks inherit it

ENDLESS = {
    "infinite loop": "while True: pass",
    "sleep forever": "import time; time.sleep(10**6)",
    "loop that catches everything": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass"),
    "deaf to signals": (
        "import signal\nfor number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "fork bomb that sleeps": (
        "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(10**6)"
    ),
    "daemon that works on": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n    os.setsid()\n"
        "    while True: time.sleep(1)\nwhile True: time.sleep(1)"
    ),
}

LEAVING = {
    "os._exit": "import os; os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "SystemExit": "raise SystemExit",
    "exit": "exit()",
    "killed by itself": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "another executable": "import os; os.execv('/bin/true', ['true'])",
    "crash": "ctypes.string_at(0)",
    "exit in a thread": (
        "import os, threading, time\nthreading.Thread(target=os._exit, args=(0,)).start(); time.sleep(9)"
    ),
    "exit at exit": "import atexit, os; atexit.register(os._exit, 0); raise KeyError",
    "exit in a signal handler": (
        "import os, signal, time\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0)); signal.alarm(1); time.sleep(9)"
    ),
    "no syntax": "def f(:",
    "waits for input": "input()",
}
"""Before any test has run."""

REDEFINING = {
    "AssertionError": "import builtins\nbuiltins.AssertionError = AssertionError = SystemExit\nassert False",
    "BaseException": "import builtins\nbuiltins.BaseException = builtins.Exception = KeyError\nassert False",
    "exit": "import builtins, os, sys\nbuiltins.exit = sys.exit = os._exit = os.abort = lambda *_: None\nassert False",
    "what reports": (
        'import os, json\njson.dumps = lambda *_, **__: \'{{"status": "passed"}}\'\n'
        "os.write = os.read = lambda *_: b'passed '\nos.getpid = lambda: 1\nassert False"
    ),
    "exception with a hostile text": ("import os\nclass E(Exception):\n    def __str__(self): os._exit(0)\nraise E"),
    "hooks": "import sys\nsys.excepthook = sys.unraisablehook = lambda *_: None\nsys.stderr = None\nassert False",
    "timers": "import signal\nsignal.setitimer = signal.signal = lambda *_: None\nassert False",
}

FORGING = {
    "verdicts on every descriptor": (
        "import os\nfor fd in range(256):\n"
        "    for text in (b'passed', b'passed ', b'{{\"status\": \"passed\"}}\\n', b'passed\\n', b'0', b'1'):\n"
        "        try: os.write(fd, text)\n        except OSError: pass\nos._exit(0)"
    ),
    "an echo": (
        "import os\nfound = b''\nfor fd in range(3, 256):\n    try:\n        os.set_blocking(fd, False)\n"
        "        found += os.read(fd, 4096) or b''\n    except OSError: pass\n"
        "for fd in range(256):\n    for text in (found, b'passed' + found, b'passed ' + found, found + b'\\n'):\n"
        "        try: os.write(fd, text)\n        except OSError: pass\nos._exit(0)"
    ),
    "a child that reaches the end": "import os\nif os.fork():\n    os.wait()\n    assert False",
    "a child that outlives a failing parent": "import os, time\nif os.fork():\n    assert False\ntime.sleep(0.3)",
    "a debugger's view of the first process": ("import os\nopen(f'/proc/{{os.getppid()}}/mem', 'r+b').read(1)"),
}

REACHING = {
    "write in a folder of everybody": "open('{outside}/new', 'w').write('x')",
    "overwrite a file": "open('{outside}/precious', 'w').write('x')",
    "append to a file": "open('{outside}/precious', 'a').write('x')",
    "truncate a file": "import os; os.truncate('{outside}/precious', 0)",
    "remove a file": "import os; os.remove('{outside}/precious')",
    "rename a file": "import os; os.rename('{outside}/precious', '{outside}/other')",
    "link a file": "import os; os.link('{outside}/precious', '{outside}/link')",
    "change a mode": "import os; os.chmod('{outside}/precious', 0)",
    "change a time": "import os; os.utime('{outside}/precious', (0, 0))",
    "delete the user's home folder": "import shutil; shutil.rmtree('{outside}')",
    "read a file in /tmp": "assert open('{temporary}').read() == 'private'",
    "write in /tmp": "open('/tmp/{marker}', 'w')",
    "write in /var/tmp": "open('/var/tmp/{marker}', 'w')",
    "write in /dev/shm": "open('/dev/shm/{marker}', 'w')",
    "shared memory": "from multiprocessing.shared_memory import SharedMemory; SharedMemory('{marker}', True, 4096)",
    "shared memory of old": "assert ctypes.CDLL(None).shmget(0, 4096, 0o1600) != -1",
    "change the kernel's settings": "open('/proc/sys/kernel/hostname', 'w').write('x')",
    "change the host's name": "import socket; socket.sethostname('x')",
    "a device": "import os; os.mknod('disk', 0o60600, os.makedev(254, 0)); open('disk', 'rb').read(1)",
    "mount": "assert ctypes.CDLL(None).mount(b'tmpfs', b'/mnt', b'tmpfs', 0, None) == 0",
    "make it writable": "assert ctypes.CDLL(None).mount(None, b'/', None, 32 | 4096, None) == 0",  # MS_REMOUNT | BIND
    "a user namespace": "assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "become root": "import os; os.setuid(0); open('/etc/{marker}', 'w')",
    "connect to this machine": "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
    "listen": "import socket; socket.create_server(('127.0.0.1', 0))",
    "send a datagram": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "a raw packet": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "the kernel's own sockets": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "an abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect('\\0{marker}')",
    "a socket file": "import socket; socket.socket(socket.AF_UNIX).connect('{socket}')",
    "signal a process of this user": "import os; os.kill({pid}, 0)",
    "kill a process of this user": "import os; os.kill({pid}, 9)",
    "limit a process of this user": "import resource; resource.prlimit({pid}, resource.RLIMIT_CPU, (1, 1))",
    "debug a process of this user": "assert ctypes.CDLL(None).ptrace(16, {pid}, 0, 0) == 0",  # PTRACE_ATTACH
    "debug the parent": "import os; assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "read a process of this user's environment": "open('/proc/{pid}/environ', 'rb').read()",
    "read a process of this user's memory": "open('/proc/{pid}/mem', 'rb')",
    "read anyone's environment": (
        "import os\ndef readable(pid):\n    try: open(f'/proc/{{pid}}/environ').read(1); return True\n"
        "    except OSError: return False\n"
        "assert any(readable(pid) for pid in os.listdir('/proc') if pid.isdigit() and int(pid) != os.getpid())"
    ),
    "an inherited variable": "import os; assert 'SANDBOX_TEST_SECRET' in os.environ",
    "another inherited descriptor": (
        "import os\ndef target(fd):\n    try: return os.readlink(f'/proc/self/fd/{{fd}}')\n"
        "    except OSError: return ''\n"
        "assert any(target(fd).startswith(('/', 'socket')) for fd in range(3, 256))"
    ),
}
"""Passing means having reached it."""

PRIVILEGED = {
    "change the kernel's settings",
    "change the host's name",
    "a device",
    "mount",
    "make it writable",
    "become root",
    "a raw packet",
    "debug the parent",
    "another inherited descriptor",
    "shared memory of old",
}
"""Do not succeed for everyone outside the sandbox either, or leave something behind."""

GREEDY = {
    "memory": "data = bytearray(4 * 1024**3)",
    "memory in many processes": (
        "import os, time\nfor _ in range(16):\n    if os.fork() == 0:\n"
        "        data = b'x' * (96 * 1024**2); time.sleep(10**6)\ntime.sleep(10**6)"
    ),
    "shared memory in many processes": (
        "import mmap, os, time\nfor _ in range(16):\n    if os.fork() == 0:\n"
        "        data = mmap.mmap(-1, 96 * 1024**2); data.write(b'x' * len(data)); time.sleep(10**6)\ntime.sleep(10**6)"
    ),
    "memory in a nameless file": "import os; os.memfd_create('x')",
    "a large file": "open('large', 'wb').write(b'x' * 10**8)",
    "a full home": "import itertools\nfor n in itertools.count(): open(str(n), 'wb').write(b'x' * 10**6)",
    "a home of many files": "import itertools\nfor n in itertools.count(): open(str(n), 'wb')",
    "a deep home": "import os\nwhile True:\n    os.mkdir('d' * 200); os.chdir('d' * 200)",
    "threads": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(10**6,), daemon=True).start()"
    ),
    "open files": "files = [open('/dev/null') for _ in range(10000)]",
}
TOGETHER = {"memory in many processes", "shared memory in many processes"}
"""Each process stays within its own bound."""
