"""Kernels that start as jobs do: as forks of a process that has imported everything, where there is one (`warm`)."""

import os
import sys

from jupyter_client import AsyncKernelManager


class Manager(AsyncKernelManager):
    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        command = super().format_kernel_cmd(extra_arguments)
        # as JPY_PARENT_PID says, which a fork of a process that has imported ipykernel would not look at any more
        parent = f"--IPKernelApp.parent_handle={os.getpid()}"
        return [sys.executable, "-m", "thesis_lib.gpus", "0", *command, parent]
