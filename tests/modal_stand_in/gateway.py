"""Modal's front: each HTTP request and each WebSocket is one call of the web function.

The socket opens when the app accepts it, carries messages of up to 2 MiB, and is not compressed. The app sees a client
from the internet, not this machine, so every limit that spares loopback applies.
"""

import asyncio
import pickle
from contextlib import suppress

from aiohttp import WSMsgType, web
from modal_proto import api_pb2

from modal_stand_in.control_plane import MAX_MESSAGE_BYTES, ControlPlane, input_of

CLIENT = ("203.0.113.7", 40000)  # of TEST-NET-3
MAX_BODY_BYTES = 64 * 1024 * 1024
PIECE_BYTES = 1024 * 1024  # of a body
ANSWER_S = 120.0  # for the first message of an answer: a cold container takes a while
CLOSE_S = 10.0
WEB_METHOD = "web"  # of our class


class Gateway:
    """An aiohttp app."""

    def __init__(self) -> None:
        self.control_plane: ControlPlane  # made after the address is known
        self.sockets: set[str] = set()  # open ones, by the id of their input
        self.app = web.Application(client_max_size=MAX_BODY_BYTES)
        self.app.router.add_route("*", "/{path:.*}", self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        scope = {
            "type": "websocket" if is_socket else "http",
            "http_version": "1.1",
            "scheme": "wss" if is_socket else "https",
            "path": request.path,
            "query_string": request.query_string.encode(),
            "client": CLIENT,
            "headers": [(name.lower(), value) for name, value in request.raw_headers],
        }
        if is_socket:
            offered = request.headers.get("Sec-WebSocket-Protocol", "")
            scope["subprotocols"] = [name.strip() for name in offered.split(",") if name.strip()]
        else:
            scope["method"] = request.method
        call_id = self.control_plane.call(
            api_pb2.FunctionInput(
                args=pickle.dumps(((scope,), {})), data_format=api_pb2.DATA_FORMAT_PICKLE, method_name=WEB_METHOD
            )
        )
        return await (self._socket(request, call_id) if is_socket else self._http(request, call_id))

    async def _http(self, request: web.Request, call_id: str) -> web.Response:
        whole = await request.read()
        for start in range(0, max(1, len(whole)), PIECE_BYTES):
            piece = api_pb2.Asgi.HttpRequest(
                body=whole[start : start + PIECE_BYTES], more_body=start + PIECE_BYTES < len(whole)
            )
            self.control_plane.data_in[call_id].put_nowait(api_pb2.Asgi(http_request=piece))
        out = self.control_plane.data_out[call_id]
        start = await asyncio.wait_for(out.get(), ANSWER_S)
        if not isinstance(start, api_pb2.Asgi):
            return web.Response(status=500, text="the function failed")
        body = b""
        while isinstance(message := await asyncio.wait_for(out.get(), ANSWER_S), api_pb2.Asgi):
            body += message.http_response_body.body
        flat = start.http_response_start.headers
        headers = [
            (name.decode(), value.decode())
            for name, value in zip(flat[::2], flat[1::2], strict=True)
            if name.lower() != b"content-length"
        ]
        return web.Response(status=start.http_response_start.status, body=body, headers=headers)

    async def _socket(self, request: web.Request, call_id: str) -> web.StreamResponse:
        into, out = self.control_plane.data_in[call_id], self.control_plane.data_out[call_id]
        into.put_nowait(api_pb2.Asgi(websocket_connect=api_pb2.Asgi.WebsocketConnect()))
        first = await asyncio.wait_for(out.get(), ANSWER_S)
        if not (isinstance(first, api_pb2.Asgi) and first.HasField("websocket_accept")):
            return web.Response(status=403 if isinstance(first, api_pb2.Asgi) else 500)
        chosen = first.websocket_accept.subprotocol
        socket = web.WebSocketResponse(
            compress=False, max_msg_size=MAX_MESSAGE_BYTES + 1, protocols=[chosen] if chosen else []
        )
        await socket.prepare(request)
        self.sockets.add(input_of(call_id))
        sending = asyncio.create_task(self._send(socket, out))
        try:
            async for message in socket:
                if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):  # too big, and closed for it
                    break
                received = api_pb2.Asgi.WebsocketReceive(
                    **{"bytes" if message.type == WSMsgType.BINARY else "text": message.data}
                )
                into.put_nowait(api_pb2.Asgi(websocket_receive=received))
            left = api_pb2.Asgi.WebsocketDisconnect(code=socket.close_code or 1006)
            into.put_nowait(api_pb2.Asgi(websocket_disconnect=left))
            with suppress(TimeoutError):
                await asyncio.wait_for(sending, CLOSE_S)
        finally:
            self.sockets.discard(input_of(call_id))
            sending.cancel()
        return socket

    async def _send(self, socket: web.WebSocketResponse, out: "asyncio.Queue[object]") -> None:
        """What the app sends, until it closes or its call ends."""
        while isinstance(message := await out.get(), api_pb2.Asgi):
            if message.HasField("websocket_close"):
                close = message.websocket_close
                await socket.close(code=close.code or 1000, message=close.reason.encode())
                return
            sent = message.websocket_send
            with suppress(ConnectionError):  # the client has gone
                await (socket.send_bytes(sent.bytes) if sent.HasField("bytes") else socket.send_str(sent.text))
        await socket.close(code=1011)  # cancelled, or failed: what Modal's front says then is not documented
