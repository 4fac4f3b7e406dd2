"""What the shipped workflows are: nodes, values, links, groups and the notes beside them. Nothing about files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_parts import PUBLISHED, TINY, Flow, Group, Node, Out, Outside, Profile


def loaders(profile: Profile) -> Group:
    if profile.own_text_encoder:
        text = Node("text", "PAVDM_LoadTextEncoder", {"text_encoder_name": profile.text.name}, models=(profile.text,))
    else:
        chosen = {"clip_name": profile.text.name, "type": "pixart", "device": "default"}
        text = Node("text", "CLIPLoader", chosen, models=(profile.text,))
    return Group(
        "1 · Models",
        profile.about_models,
        (
            Node("vae", "PAVDM_LoadVAE", {"vae_name": profile.vae.name}, models=(profile.vae,)),
            Node(
                "model",
                "PAVDM_LoadModel",
                {"model_name": profile.stdit.name, "vae": Out("vae", "vae")},
                models=(profile.stdit,),
            ),
            text,
        ),
    )


def prompt(profile: Profile, key: str, text: Any, title: str | None = None) -> Node:
    inputs = {"clip": Out("text", "clip" if profile.own_text_encoder else "CLIP"), "text": text, **profile.scores}
    return Node(key, "PAVDM_EncodePrompt", {**inputs, "fps": profile.fps}, title)


def guider(profile: Profile, key: str, prompt_key: str, title: str | None = None) -> Node:
    ends = {name: Out(prompt_key, name) for name in ("positive", "negative")}
    return Node(key, "CFGGuider", {"model": Out("model", "model"), **ends, "cfg": profile.cfg}, title)


def clip(profile: Profile, number: int) -> Group:
    length = {**profile.size, "fps": profile.fps, "new_seconds": profile.seconds["clip"]}
    if profile.demo_clip:
        sizes = {"width": profile.size["width"], "height": profile.size["height"], "fps": profile.fps}
        source: tuple[Node, ...] = (Node("clip", "PAVDM_DemoClip", {"seed": 7, "seconds": 3.0, **sizes}),)
        images = {"images": Out("clip", "images"), "source_fps": Out("clip", "fps")}
        what = "A clip of the world that the small model knows; another *seed* shows other shapes."
    else:
        parts = Node("parts", "GetVideoComponents", {"video": Out("clip", "VIDEO")})
        source = (Node("clip", "LoadVideo", {"file": "clip.mp4"}), parts)
        images = {"images": Out("parts", "images"), "source_fps": Out("parts", "fps")}
        what = "**Choose your own clip in Load Video**, at least 17 frames (0.7 s) of it."
    encode = Node("latent", "PAVDM_EncodeClip", {"vae": Out("vae", "vae"), **images, **length})
    note = f"{what}\n\n*Encode Clip* takes its last 17 frames. **new_seconds** says how much video is made after them."
    return Group(f"{number} · The clip, and how long", note, (*source, encode))


def clip_frames(profile: Profile) -> dict[str, Out]:
    """The clip's own frames, for Decode to Video."""
    source = "clip" if profile.demo_clip else "parts"
    return {"clip": Out(source, "images"), "clip_fps": Out(source, "fps")}


def empty(profile: Profile, number: int, seconds: float) -> Group:
    length = {**profile.size, "fps": profile.fps, "new_seconds": seconds}
    note = "**new_seconds** says how long the video is. Any length takes the same memory while it is made."
    return Group(f"{number} · Size and length", note, (Node("latent", "PAVDM_EmptyVideo", length),))


def decode(
    profile: Profile, key: str, latent: Out, name: str, title: str | None = None, clip: Mapping[str, Out] | None = None
) -> tuple[Node, Node]:
    inputs = {"vae": Out("vae", "vae"), "latent": latent, "fps": profile.fps, **(clip or {})}
    return (
        Node(f"{key}_decode", "PAVDM_DecodeToVideo", inputs),
        Node(
            f"{key}_save",
            "SaveVideo",
            {
                "video": Out(f"{key}_decode", "video"),
                "filename_prefix": f"pavdm/{name}",
                "format": "auto",
                "codec": "auto",
            },
            title,
        ),
    )


def sampled(key: str, sampler: str, title: str | None = None) -> Node:
    inputs = {
        "noise": Out("noise", "NOISE"),
        "guider": Out("guider", "GUIDER"),
        "sampler": Out(sampler, "sampler"),
        "sigmas": Out(sampler, "sigmas"),
        "latent_image": Out("latent", "latent"),
    }
    return Node(key, "SamplerCustomAdvanced", inputs, title)


def one_go(
    profile: Profile,
    name: str,
    intro: str,
    beginning: Group,
    prompt_group: Group,
    clip: Mapping[str, Out] | None = None,
) -> Flow:
    """The chain that makes a whole video in one node. clip: what it goes on from, shown before it."""
    sampling = Group(
        "4 · The whole video in one go",
        "*Progressive Sampler* holds the method's settings: a window of **window_chunks** chunks at rising noise, of "
        "which one leaves clean every steps / window_chunks model calls.\n\nThe bar runs over the whole video; Cancel "
        "works at any model call.",
        (
            Node("noise", "RandomNoise", {"noise_seed": 42}),
            Node("sampler", "PAVDM_ProgressiveSampler", profile.schedule),
            sampled("sampled", "sampler"),
        ),
    )
    end = Group(
        "5 · The video",
        "Decoded piece by piece, straight into the file: memory stays flat."
        + (" Your clip's own frames come first, as they are." if clip else ""),
        decode(profile, "video", Out("sampled", "output"), name, clip=clip),
    )
    return Flow(profile.prefix + name, intro, (loaders(profile), prompt_group, beginning, sampling, end))


def extend_a_clip(profile: Profile) -> Flow:
    caption = Out("clip", "caption") if profile.demo_clip else profile.prompts["clip"]
    note = "What the clip shows, and what happens next. `|0s| first |10s| then` changes it on the way, without a cut."
    if profile.demo_clip:
        note = "The clip's own caption. Pull the link off and type another to change what happens."
    return one_go(
        profile,
        "extend_a_clip",
        "# Extend a clip\n\nGoes on from where your clip ends, for as long as you like.",
        clip(profile, 3),
        Group("2 · Prompt", note, (prompt(profile, "prompt", caption), guider(profile, "guider", "prompt"))),
        clip_frames(profile),
    )


def text_to_long_video(profile: Profile) -> Flow:
    note = (
        "`|0s| first |20s| then` changes the text after 20 seconds: the video travels from one to the other, without a "
        "cut. A single text without bars holds all the way."
    )
    nodes = (prompt(profile, "prompt", profile.prompts["text"]), guider(profile, "guider", "prompt"))
    return one_go(
        profile,
        "text_to_long_video",
        "# Text to long video\n\nStarts from nothing but text: the window grows out of pure noise.",
        empty(profile, 3, profile.seconds["text"]),
        Group("2 · Prompt", note, nodes),
    )


def prompt_travel(profile: Profile) -> Flow:
    part = {"seconds": profile.seconds["part"]}
    prompts = Group(
        "2 · Two prompts",
        "Each part of the video has a prompt and a guider of its own; a LoRA or another guidance may come with it.",
        (
            prompt(profile, "prompt", profile.prompts["first"], "First prompt"),
            guider(profile, "guider", "prompt", "First guider"),
            prompt(profile, "prompt2", profile.prompts["then"], "Second prompt"),
            guider(profile, "guider2", "prompt2", "Second guider"),
        ),
    )
    start = Group(
        "3 · Start",
        "The sampler's settings and the seed hold for the whole video. The length comes from the Extend nodes; "
        "*new_seconds* is not used here.",
        (
            Node("sampler", "PAVDM_ProgressiveSampler", profile.schedule),
            Node("latent", "PAVDM_EmptyVideo", {**profile.size, "fps": profile.fps, "new_seconds": 1.0}),
            Node(
                "start",
                "PAVDM_Start",
                {"sampler": Out("sampler", "sampler"), "latent": Out("latent", "latent"), "noise_seed": 42},
            ),
        ),
    )
    travel = Group(
        "4 · Part by part",
        "Each *Extend* finishes **seconds** of video. What is in the window when the prompt changes keeps its text, so "
        "the change flows in without a cut.\n\nA state is a value: feed it into two *Extend* nodes, and you have two "
        "versions of what happens next. *Finish* brings the window to rest.",
        (
            Node(
                "extend",
                "PAVDM_Extend",
                {"guider": Out("guider", "GUIDER"), "state": Out("start", "state"), **part},
                "Extend with the first prompt",
            ),
            Node(
                "extend2",
                "PAVDM_Extend",
                {"guider": Out("guider2", "GUIDER"), "state": Out("extend", "state"), **part},
                "Extend with the second prompt",
            ),
            Node("finish", "PAVDM_Finish", {"state": Out("extend2", "state"), "guider": Out("guider2", "GUIDER")}),
        ),
    )
    end = Group(
        "5 · The video",
        "Both parts in one file.",
        decode(profile, "video", Out("finish", "latent"), "prompt_travel"),
    )
    intro = "# Prompt travel\n\nTwo Extend nodes with a prompt each: the second takes over while the video goes on."
    return Flow(profile.prefix + "prompt_travel", intro, (loaders(profile), prompts, start, travel, end))


def resume_from_a_saved_state(profile: Profile) -> Flow:
    name = f"pavdm/{profile.prefix}state"
    prompts = Group(
        "2 · Prompt",
        "May be another at every run.",
        (prompt(profile, "prompt", profile.prompts["first"]), guider(profile, "guider", "prompt")),
    )
    start = Group(
        "3 · Where it begins",
        "*Load State* takes the last state saved under its name. While there is none, as at the first run, it takes "
        "what comes from *Start*.\n\n**To begin anew, give Load State and Save State another name.**",
        (
            Node("sampler", "PAVDM_ProgressiveSampler", profile.schedule),
            Node("latent", "PAVDM_EmptyVideo", {**profile.size, "fps": profile.fps, "new_seconds": 1.0}),
            Node(
                "start",
                "PAVDM_Start",
                {"sampler": Out("sampler", "sampler"), "latent": Out("latent", "latent"), "noise_seed": 42},
            ),
            Node("load", "PAVDM_LoadState", {"filename_prefix": name, "number": 0, "state": Out("start", "state")}),
        ),
    )
    more = Group(
        "4 · Some seconds more",
        "Every run adds **seconds** of video and saves the state: press Run again, now or next week, after a crash or "
        "a reboot, and the same video goes on. A lower **number** in *Load State* goes back to an earlier point.",
        (
            Node(
                "extend",
                "PAVDM_Extend",
                {"guider": Out("guider", "GUIDER"), "state": Out("load", "state"), "seconds": profile.seconds["part"]},
            ),
            Node("keep", "PAVDM_SaveState", {"state": Out("extend", "state"), "filename_prefix": name}),
            Node("finish", "PAVDM_Finish", {"state": Out("keep", "state"), "guider": Out("guider", "GUIDER")}),
        ),
    )
    end = Group(
        "5 · The video so far",
        "From the very beginning, and with the window brought to rest. The saved state does not rest: it can go on.",
        decode(profile, "video", Out("finish", "latent"), "resumed"),
    )
    intro = "# Resume from a saved state\n\nA video that grows from run to run."
    return Flow(profile.prefix + "resume_from_a_saved_state", intro, (loaders(profile), prompts, start, more, end))


def beside_the_baseline(profile: Profile) -> Flow:
    caption = Out("clip", "caption") if profile.demo_clip else profile.prompts["clip"]
    prompts = Group(
        "2 · Prompt", "The same for both.", (prompt(profile, "prompt", caption), guider(profile, "guider", "prompt"))
    )
    sampling = Group(
        "4 · Two ways from the same noise",
        "Above PA-VDM, below Open-Sora's own loop: it denoises clip after clip, each begun with the last latents of "
        "the one before. Look for jumps where the clips meet, and for colours that drift.",
        (
            Node("noise", "RandomNoise", {"noise_seed": 42}),
            Node("sampler", "PAVDM_ProgressiveSampler", profile.schedule),
            sampled("sampled", "sampler", "PA-VDM"),
            Node("loop", "PAVDM_ReplacementSampler", profile.loop),
            sampled("looped", "loop", "Baseline"),
        ),
    )
    end = Group(
        "5 · Side by side",
        "Two files of the same length.",
        (
            *decode(profile, "video", Out("sampled", "output"), "beside_pavdm", "Save PA-VDM"),
            *decode(profile, "baseline", Out("looped", "output"), "beside_baseline", "Save baseline"),
        ),
    )
    intro = "# PA-VDM beside the baseline\n\nThe same clip, prompt, weights and noise, extended in two ways."
    groups = (loaders(profile), prompts, clip(profile, 3), sampling, end)
    return Flow(profile.prefix + "beside_the_baseline", intro, groups)


def one_node(profile: Profile) -> Flow:
    """The chain of extend_a_clip as the inside of one node: a clip in, the longer video out."""
    length = {**profile.size, "fps": profile.fps, "new_seconds": Outside("new_seconds", profile.seconds["clip"])}
    frames = {"images": Out("parts", "images"), "source_fps": Out("parts", "fps")}
    chosen = {"clip_name": Outside("clip_name", profile.text.name), "type": "pixart", "device": "default"}
    model = {"model_name": Outside("model_name", profile.stdit.name), "vae": Out("vae", "vae")}
    models = (
        Node("vae", "PAVDM_LoadVAE", {"vae_name": Outside("vae_name", profile.vae.name)}, models=(profile.vae,)),
        Node("model", "PAVDM_LoadModel", model, models=(profile.stdit,)),
        Node("text", "CLIPLoader", chosen, models=(profile.text,)),
    )
    middle = (
        prompt(profile, "prompt", Outside("text", profile.prompts["clip"])),
        guider(profile, "guider", "prompt"),
        Node("parts", "GetVideoComponents", {"video": Outside("video")}),
        Node("latent", "PAVDM_EncodeClip", {"vae": Out("vae", "vae"), **frames, **length}),
    )
    end = (
        Node("noise", "RandomNoise", {"noise_seed": Outside("noise_seed", 42)}),
        Node("sampler", "PAVDM_ProgressiveSampler", profile.schedule),
        sampled("sampled", "sampler"),
        decode(profile, "video", Out("sampled", "output"), "", clip=clip_frames(profile))[0],
    )
    groups = (
        Group("Models", "The files are chosen on the node outside.", models),
        Group("Prompt and clip", "Size and frame rate are set here.", middle),
        Group("The whole video in one go", "The method's settings are those of *Progressive Sampler*.", end),
    )
    return Flow("Extend a Clip (PA-VDM)", "Goes on from where a clip ends: a clip in, the longer video out.", groups)


def all_flows() -> list[Flow]:
    makers = (extend_a_clip, text_to_long_video, prompt_travel, resume_from_a_saved_state, beside_the_baseline)
    return [make(profile) for profile in (PUBLISHED, TINY) for make in makers]
