"""Kernels that start as jobs do: as forks of a process that has imported everything, where there is one (`warm`)."""

import sys

from jupyter_client import AsyncKernelManager


class Manager(AsyncKernelManager):
    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return [sys.executable, "-m", "thesis_lib.gpus", "0", *super().format_kernel_cmd(extra_arguments)]
