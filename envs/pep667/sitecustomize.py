"""On PYTHONPATH only while basicsr is built: lets its setup.py work on Python 3.13 and later.

basicsr 1.4.2, the last release, reads its version with exec(code) in a function and then takes it from locals().
Since PEP 667 (Python 3.13) exec(code) no longer adds names to the function that calls it. Here it does again.
"""

import builtins
import sys

builtin_exec = builtins.exec


def exec_into_caller(source, *namespaces, **options):
    caller = sys._getframe(1)
    if not namespaces and not options:
        namespaces = (caller.f_globals, caller.f_locals)
    builtin_exec(source, *namespaces, **options)


if sys.version_info >= (3, 13):
    builtins.exec = exec_into_caller
