"""A stand-in for Modal on this machine: control plane, worker and web gateway.

It speaks Modal's own gRPC API with the messages of the `modal` wheel, so the unmodified `modal` CLI deploys to it.
What was deployed is then run by the wheel's own container entrypoint, in a process that sees nothing but what a
container of that deployment would see: the files that were uploaded, the distributions that the image's lock names,
and the environment of the image and the secrets. Real clients reach it through a gateway, which turns HTTP and
WebSockets into the messages that Modal's runtime gives to an ASGI app.

    control_plane.py   what the CLI and the container ask, and what they sent
    container.py       a process from that
    gateway.py         clients, as Modal's front would pass them on

    with StandIn(tmp_path) as modal:
        modal.cli("deploy", "modal_app.py")
        with modal.container() as container:
            ...                               # clients connect to modal.address

What it does not prove: that the image builds, that a GPU is there, how Modal routes and scales, and what its front
does at the edges. Where the front's behaviour is documented (messages up to 2 MiB, no compression, the socket opens
when the app accepts it) the gateway does the same; where it is not (the close code of a cancelled input) it picks
one, and the tests only look at the app's side.

Known to work with modal 1.4.3, 1.5.4, 1.6.0 and 1.6.4. What an upgrade breaks shows in `control_plane.calls`: an RPC
without a method here is answered with an empty message. Everything listens on 127.0.0.1, nothing waits for ever, and
no process is ended but the one that was started here.
"""

from modal_stand_in.container import Container
from modal_stand_in.stand_in import StandIn

__all__ = ["Container", "StandIn"]
