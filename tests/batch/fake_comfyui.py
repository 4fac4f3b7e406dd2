"""A process that speaks ComfyUI's protocol: `fake_comfyui.py VIDEO NOTES [HOW]`. It prints its port; every video it is
asked for is VIDEO, prompts with "fail" in them are failed by a node. HOW: hanging (never ends any), bare (has no nodes),
without-model (has not the workflows' model file), picky (refuses all, and lacks nothing), cancelled (the first run is
interrupted by a person)."""

import asyncio
import json
import sys
from pathlib import Path

from aiohttp import web

video, notes = Path(sys.argv[1]), Path(sys.argv[2])
how = sys.argv[3] if len(sys.argv) > 3 else ""
sockets, ended, running = [], {}, []


def nodes():
    """What the workflows that come with the nodes need, with their own model files as the only choices."""
    if how == "bare":
        return {}
    found = {}
    for path in (Path(__file__).parent.parent.parent / "workflows/api").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8")).values():
            files = {k: [[v]] for k, v in node["inputs"].items() if k.endswith("_name") and how != "without-model"}
            known = found.setdefault(node["class_type"], {"input": {"required": {}}})["input"]["required"]
            for name, choice in ({"model_name": [["another"]]} if how == "without-model" else files).items():
                if name in node["inputs"]:
                    known[name] = [known.get(name, [[]])[0] + choice[0]]
    return found


async def websocket(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    sockets.append(socket)
    async for _ in socket:
        pass
    return socket


async def upload(request):
    form = await request.post()
    return web.json_response({"name": form["image"].filename, "subfolder": form["subfolder"], "type": "input"})


async def prompt(request):
    job = await request.json()
    number, socket, graph = job["prompt_id"], sockets[-1], job["prompt"]
    with notes.open("a") as file:
        file.write(json.dumps(graph) + "\n")
    if how in ("picky", "without-model"):
        error = {"message": "Value not in list", "details": "of picky"}
        return web.json_response({"error": error, "node_errors": {}}, status=400)
    running.append(number)

    async def tell(kind, **data):
        await socket.send_str(json.dumps({"type": kind, "data": {"prompt_id": number, **data}}))

    async def work():
        sampler = next(n for n, node in graph.items() if node["class_type"] == "SamplerCustomAdvanced")
        text = next(n["inputs"]["text"] for n in graph.values() if n["class_type"] == "PAVDM_EncodePrompt")
        await tell("executing", node=sampler)
        await tell("progress", node=sampler, value=1, max=4)
        if how == "hanging":
            return
        running.remove(number)
        error = ["execution_error", {"node_id": sampler, "exception_message": "out of patience"}]
        if how == "cancelled" and not ended:
            error, text = ["execution_interrupted", {"node_id": sampler}], "to fail"
        status = {"messages": [error] if "fail" in text else []}
        file = {"filename": "made.mp4", "subfolder": "pavdm", "type": "output"}
        ended[number] = {"outputs": {"9": {"images": [file]}}, "status": status}
        await tell("execution_error" if "fail" in text else "execution_success")

    request.app["tasks"].append(asyncio.create_task(work()))
    return web.json_response({"prompt_id": number, "number": 1, "node_errors": {}})


async def object_info(request):
    return web.json_response(nodes())


async def empty(request):
    return web.json_response({})


async def queue(request):
    return web.json_response({"queue_running": [[0, number] for number in running], "queue_pending": []})


async def history(request):
    return web.json_response({k: v for k, v in ended.items() if k == request.match_info["id"]})


async def view(request):
    return web.FileResponse(video)


async def main():
    app = web.Application()
    app["tasks"] = []
    app.add_routes([web.get("/ws", websocket), web.post("/prompt", prompt), web.post("/upload/image", upload)])
    app.add_routes([web.get("/object_info", object_info), web.get("/history/{id}", history), web.get("/queue", queue)])
    app.add_routes([web.post("/queue", empty), web.post("/interrupt", empty), web.get("/view", view)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(main())
