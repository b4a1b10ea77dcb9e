"""A client whose machine is gone: whatever is sent to it is lost, so nothing is acknowledged, and nothing refused."""

import ctypes
import socket
import struct

SO_ATTACH_FILTER = 26
RETURN = 0x06  # BPF_RET | BPF_K: how many bytes of a packet are let through


def vanish(connection: socket.socket) -> None:
    """Let every packet to this socket be lost from now on. Linux; needs no rights."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", RETURN, 0, 0, 0))
    connection.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program))
    )  # the kernel has its own copy from here on
