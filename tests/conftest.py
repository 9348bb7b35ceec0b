"""What holds for all tests, and for the processes that they start."""

import os

# Most programs of tests run once, on small shapes, and take longer to optimise
# than to run, and those of XLA's older emitters are made in half the time.
# `XLA_FLAGS= make test` tests what users run. Where a later XLA has no such flag
# it says so as it starts, and the flag can go.
os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false',
)
# Warnings are errors in the tests by setup.cfg; processes that they start are
# told by this. A file that Ctrl-C left open is closed with a warning, which no
# user sees, and which as an error would end nothing and be a Traceback.
os.environ.setdefault('PYTHONWARNINGS', 'error,ignore::ResourceWarning')
# Binaries that tests start compute on one device, as the tests do, so that they
# find each other's compiled programs. Several are for the tests of that.
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '1')
