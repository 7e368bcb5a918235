"""What the `modal` CLI and a container ask of Modal, answered just well enough.

Each RPC that needs an answer has a method of its name; all others are answered with an empty message. Every request is
kept, in order, in `calls`: that is what a test looks at to see what was deployed.
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

MAX_MESSAGE_BYTES = 2 * 1024 * 1024  # of a WebSocket, says Modal's documentation
IMAGE_BUILDER = "2025.06"
LONG_POLL_S = 5.0
SUCCESS = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
CARDINALITIES = {
    (False, False): Cardinality.UNARY_UNARY,
    (False, True): Cardinality.UNARY_STREAM,
    (True, False): Cardinality.STREAM_UNARY,
    (True, True): Cardinality.STREAM_STREAM,
}


class ControlPlane:
    """The gRPC service `modal.client.ModalClient`."""

    def __init__(self, web_url: str) -> None:
        self.calls: list[tuple[str, Any]] = []  # (RPC, request), in order
        self.refusals: dict[str, str] = {}  # by RPC: the sentence to refuse it with
        self.functions: dict[str, api_pb2.Function] = {}  # by id, and so on
        self.images: dict[str, api_pb2.Image] = {}
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.secret_values: dict[str, dict[str, str]] = {}  # of named secrets: what the operator has put there
        self.files: dict[str, bytes] = {}  # by SHA-256
        self.metadata: dict[str, api_pb2.FunctionHandleMetadata] = {}
        self.published: api_pb2.AppPublishRequest | None = None
        # Of the container: its inputs, which of them to cancel, and by function call what goes in and comes out.
        self.inputs: asyncio.Queue[api_pb2.FunctionGetInputsItem] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.data_in: defaultdict[str, asyncio.Queue[api_pb2.Asgi]] = defaultdict(asyncio.Queue)
        self.data_out: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self.outputs: defaultdict[str, asyncio.Queue[api_pb2.FunctionPutOutputsItem]] = defaultdict(asyncio.Queue)
        self.checkpoints = 0
        self._web_url = web_url
        self._numbers: defaultdict[str, itertools.count[int]] = defaultdict(itertools.count)

    def requests(self, rpc: str) -> list[Any]:
        """What was asked of one RPC."""
        return [request for name, request in self.calls if name == rpc]

    def __mapping__(self) -> dict[str, Handler]:
        """The service, as grpclib wants it."""
        service = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
        return {
            f"/{service.full_name}/{method.name}": Handler(
                self._handler(method.name, GetMessageClass(method.output_type)),
                CARDINALITIES[method.client_streaming, method.server_streaming],
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
            )
            for method in service.methods
        }

    def _handler(self, rpc: str, reply: type[Message]) -> Any:
        async def handle(stream: Any) -> None:
            request = await stream.recv_message()
            self.calls.append((rpc, request))
            if rpc in self.refusals:
                raise GRPCError(Status.NOT_FOUND, self.refusals[rpc])
            answer = getattr(self, rpc, lambda _: reply())(request)
            if hasattr(answer, "__aiter__"):
                async for item in answer:
                    await stream.send_message(item)
            else:
                await stream.send_message(await answer if asyncio.iscoroutine(answer) else answer)

        return handle

    def _new(self, prefix: str) -> str:
        return f"{prefix}-{next(self._numbers[prefix])}"

    # ---- `modal deploy`

    def EnvironmentGetOrCreate(self, request: Any) -> Message:
        settings = api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER)
        metadata = api_pb2.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    def AppCreate(self, request: Any) -> Message:
        return api_pb2.AppCreateResponse(app_id=self._new("ap"), app_page_url="http://127.0.0.1/app")

    def AppPublish(self, request: Any) -> Message:
        self.published = request
        return _made(api_pb2.AppPublishResponse, url="http://127.0.0.1/app", deployed_at=1.0)

    def SecretGetOrCreate(self, request: Any) -> Message:
        secret_id = self._new("st")
        self.secrets[secret_id] = dict(request.env_dict) or self.secret_values.get(request.deployment_name, {})
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id)

    def VolumeGetOrCreate(self, request: Any) -> Message:
        return api_pb2.VolumeGetOrCreateResponse(volume_id=self._new("vo"), version=request.version)

    def MountBatchedCheckExistence(self, request: Any) -> Message:
        missing = [digest for digest in request.sha256_hex_hashes if digest not in self.files]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    def MountPutFile(self, request: Any) -> Message:
        if request.WhichOneof("data_oneof"):  # without data it only asks (modal before 1.5.2)
            self.files[request.sha256_hex] = request.data
        return api_pb2.MountPutFileResponse(exists=request.sha256_hex in self.files)

    def MountGetOrCreate(self, request: Any) -> Message:
        mount_id = self._new("mo")
        self.mounts[mount_id] = list(request.files)  # none in Modal's own: its client, its Python
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id)

    def ImageGetOrCreate(self, request: Any) -> Message:
        image_id = self._new("im")
        self.images[image_id] = request.image
        metadata = api_pb2.ImageMetadata(
            image_builder_version=request.builder_version, python_version_info="Python 3.12.10"
        )
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=SUCCESS, metadata=metadata)

    def FunctionPrecreate(self, request: Any) -> Message:
        function_id = self._new("fu")
        function = api_pb2.Function(
            function_name=request.function_name,
            function_type=request.function_type,
            webhook_config=request.webhook_config,
            method_definitions=dict(request.method_definitions),
        )
        metadata = self._describe(function_id, function)
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=metadata)

    def FunctionCreate(self, request: Any) -> Message:
        function_id = request.existing_function_id or self._new("fu")
        data = request.function_data
        if request.HasField("function"):
            ranked = [api_pb2.FunctionData.RankedFunction(function=request.function)]
            data = api_pb2.FunctionData(ranked_functions=ranked)
        function = self.functions[function_id] = data.ranked_functions[0].function
        shown = api_pb2.Function.FromString(function.SerializeToString())
        for method in shown.method_definitions.values():
            method.web_url = self._url(method)
        return _made(
            api_pb2.FunctionCreateResponse,
            function_id=function_id,
            function=shown,
            function_data=data,
            handle_metadata=self._describe(function_id, function),
        )

    def ClassCreate(self, request: Any) -> Message:
        return api_pb2.ClassCreateResponse(class_id=self._new("cs"))

    def _url(self, function: Any) -> str:
        return self._web_url if function.webhook_config.type else ""

    def _describe(self, function_id: str, function: api_pb2.Function) -> api_pb2.FunctionHandleMetadata:
        """What the client wants to know of a function, and of each method of a class."""

        def described(of: Any, **more: Any) -> api_pb2.FunctionHandleMetadata:
            return api_pb2.FunctionHandleMetadata(
                function_name=of.function_name,
                function_type=of.function_type,
                web_url=self._url(of),
                max_object_size_bytes=MAX_MESSAGE_BYTES,
                supported_input_formats=list(of.supported_input_formats),
                supported_output_formats=list(of.supported_output_formats),
                **more,
            )

        methods = {
            name: described(method, is_method=True, use_method_name=name)
            for name, method in function.method_definitions.items()
        }
        self.metadata[function_id] = described(
            function, definition_id=f"de-{function_id}", method_handle_metadata=methods
        )
        return self.metadata[function_id]

    # ---- `modal run`: a call of a method, and the log

    def FunctionMap(self, request: Any) -> Message:
        [asked] = request.pipelined_inputs
        call_id = self.call(asked.input)
        answer = api_pb2.FunctionPutInputsResponseItem(input_id=input_of(call_id), input_jwt="-")
        return api_pb2.FunctionMapResponse(function_call_id=call_id, pipelined_inputs=[answer])

    async def FunctionGetOutputs(self, request: Any) -> Message:
        output = await self.outputs[request.function_call_id].get()
        item = api_pb2.FunctionGetOutputsItem(
            result=output.result, input_id=output.input_id, data_format=output.data_format
        )
        return api_pb2.FunctionGetOutputsResponse(outputs=[item])

    async def AppGetLogs(self, request: Any) -> AsyncIterator[Message]:
        while not self.requests("AppClientDisconnect"):
            await asyncio.sleep(0.05)  # nothing tells it when
        yield api_pb2.TaskLogsBatch(app_done=True)

    # ---- the container

    def call(self, function_input: api_pb2.FunctionInput) -> str:
        """Hand an input to the container; return the id of the function call."""
        call_id = self._new("fc")
        item = api_pb2.FunctionGetInputsItem(input_id=input_of(call_id), function_call_id=call_id, input=function_input)
        self.inputs.put_nowait(item)
        return call_id

    async def FunctionGetInputs(self, request: Any) -> Message:
        return api_pb2.FunctionGetInputsResponse(inputs=[await self.inputs.get()])

    def FunctionGetDynamicConcurrency(self, request: Any) -> Message:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def ContainerHeartbeat(self, request: Any) -> Message:
        """A long poll, so that cancellations arrive at once."""
        response = api_pb2.ContainerHeartbeatResponse()
        try:
            input_ids = [await asyncio.wait_for(self.cancelled.get(), LONG_POLL_S)]
        except TimeoutError:
            return response
        while not self.cancelled.empty():
            input_ids.append(self.cancelled.get_nowait())
        response.cancel_input_event.input_ids.extend(input_ids)
        return response

    def ContainerCheckpoint(self, request: Any) -> Message:
        self.checkpoints += 1
        return Empty()

    async def FunctionCallGetDataIn(self, request: Any) -> AsyncIterator[Message]:
        for index in itertools.count(1):
            message = await self.data_in[request.function_call_id].get()
            yield api_pb2.DataChunk(data_format=api_pb2.DATA_FORMAT_ASGI, data=message.SerializeToString(), index=index)

    def FunctionCallPutDataOut(self, request: Any) -> Message:
        for chunk in request.data_chunks:
            self.data_out[request.function_call_id].put_nowait(api_pb2.Asgi.FromString(chunk.data))
        return Empty()

    def FunctionPutOutputs(self, request: Any) -> Message:
        for output in request.outputs:
            call_id = call_of(output.input_id)
            self.outputs[call_id].put_nowait(output)
            self.data_out[call_id].put_nowait(output)  # behind the last message
        return Empty()


def input_of(call_id: str) -> str:
    return f"in-{call_id}"


def call_of(input_id: str) -> str:
    return input_id.removeprefix("in-")


def _made(kind: Any, **fields: Any) -> Any:
    """A message with those fields that this version of modal knows."""
    return kind(**{name: value for name, value in fields.items() if name in kind.DESCRIPTOR.fields_by_name})
