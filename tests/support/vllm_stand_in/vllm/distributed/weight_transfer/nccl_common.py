"""The rendezvous: the trainer listens, and the server connects."""

import socket
from typing import Any


class Group:
    """The trainer's side. `store` and `socket` are what TRL drops at the end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.group = self
        self.store: object = None
        self.socket: object = None


def trainer_init(info: dict[str, Any]) -> Group:
    assert info["packed"]
    with socket.create_server((info["master_address"], info["master_port"])) as listening:
        connection, _ = listening.accept()
    return Group(connection)
