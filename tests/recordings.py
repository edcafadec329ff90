"""Small recordings of other formats, written by h5py alone in the layouts that their projects document."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

LENGTHS = (12, 9, 15)


def walk(length, dims, seed):
    """A smooth motion (length, dims)."""
    return np.cumsum(np.random.default_rng(seed).normal(size=(length, dims)), axis=0) / 10


def images(length, height, width, seed):
    """Smooth images (length, height, width, 3), no two of them alike, which JPEG keeps."""
    t, y, x = np.ogrid[:length, :height, :width]
    base = 40 + 60 * x / width + 60 * y / height + 3 * t + seed
    return np.stack([base, 0.5 * base, 255 - base], axis=-1).astype(np.uint8)


def robomimic(path, *, env_kwargs=None, lengths=LENGTHS, first=0, about=(), rename=(), datagen=False, mask=None):
    """A file of robomimic, with next observations; demonstration 10 exists, to be sorted behind 2."""
    numbers = [first + (10 if i == len(lengths) - 1 else i) for i in range(len(lengths))]
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env = {"env_name": "Lift", "type": 1, "env_kwargs": env_kwargs or {}}
        data.attrs.update({"total": sum(lengths), "env_args": json.dumps(env), **dict(about)})
        for number, length in zip(numbers, lengths, strict=True):
            demo = data.create_group(f"demo_{number}")
            demo.attrs.update({"num_samples": length, "model_file": "<mujoco/>"})
            arrays = {"eef_pos": walk(length + 1, 3, number), "agentview_image": images(length + 1, 24, 32, number)}
            for name, values in arrays.items():
                name = dict(rename).get(name, name)
                demo[f"obs/{name}"], demo[f"next_obs/{name}"] = values[:-1], values[1:]
            demo["actions"] = walk(length, 7, 100 + number)
            demo["states"] = walk(length, 5, 200 + number)
            demo["rewards"] = (np.arange(length) == length - 1).astype(float) * (number != numbers[1])
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
            if datagen:
                demo["datagen_info/eef_pose"] = np.zeros((length, 4, 4))
        for name, chosen in (mask or {}).items():
            file[f"mask/{name}"] = np.array([f"demo_{number}" for number in chosen], "S8")
    return Path(path)


def libero(path, instruction="pick up the bowl"):
    """A file of LIBERO: robomimic's layout without next observations, with an instruction."""
    about = {
        "problem_info": json.dumps({"problem_name": "kitchen", "language_instruction": instruction}),
        "bddl_file_name": "kitchen.bddl",
        "bddl_file_content": "(define)",
        "num_demos": len(LENGTHS),
        "macros_image_convention": "opengl",
    }
    kwargs = {"control_freq": 20, "reward_shaping": True, "controller_configs": {"control_delta": True}}
    names = {"agentview_image": "agentview_rgb", "eef_pos": "ee_pos"}
    robomimic(path, env_kwargs=kwargs, about=about, rename=names)
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            del demo["next_obs"]
            demo["robot_states"] = demo["states"][:, :2]
            demo["obs/agentview_depth"] = np.ones((len(demo["actions"]), 24, 32, 1), np.float32)
    return Path(path)


def aloha(folder, *, jpeg=False, base=False, effort=True, fps=None):
    """A folder of ALOHA: 14 joints, two cameras."""
    folder = Path(folder)
    folder.mkdir()
    for number, length in enumerate(LENGTHS):
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs.update({"sim": False, "compress": jpeg, **({"fps": fps} if fps else {})})
            file["action"] = walk(length, 14, number).astype(np.float32)
            for key in ("qpos", "qvel", *(["effort"] if effort else [])):
                file[f"observations/{key}"] = walk(length, 14, 10 + number).astype(np.float32)
            if base:
                file["base_action"] = walk(length, 2, 20 + number).astype(np.float32)
            sizes = []
            for i, camera in enumerate(("cam_low", "cam_high")):
                frames = images(length, 24, 32, number + i)
                if not jpeg:
                    file.create_dataset(f"observations/images/{camera}", data=frames, chunks=(1, 24, 32, 3))
                    continue
                encoded = [jpeg_bytes(frame) for frame in frames]
                sizes.append([len(content) for content in encoded])
                padded = [np.frombuffer(content.ljust(max(sizes[-1]), b"\0"), np.uint8) for content in encoded]
                file[f"observations/images/{camera}"] = np.stack(padded)
            if jpeg:
                file["compress_len"] = np.array(sizes, np.float32)
    return folder


def jpeg_bytes(image):
    """The image as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def maniskill(folder, *, observed=True, mode="rgb"):
    """The pair of files of ManiSkill, N actions and N + 1 observations."""
    folder = Path(folder)
    folder.mkdir()
    path, episodes = folder / f"trajectory.{mode}.pd_ee_delta_pose.physx_cpu.h5", []
    with h5py.File(path, "w") as file:
        for number, length in enumerate(LENGTHS):
            traj = file.create_group(f"traj_{number}")
            traj["actions"] = walk(length, 7, number).astype(np.float32)
            traj["success"] = np.arange(length) == length - 1
            traj["terminated"] = traj["truncated"] = np.zeros(length, bool)
            traj["env_states/actors/cube"] = walk(length + 1, 13, 10 + number).astype(np.float32)
            episodes.append({"episode_id": number, "episode_seed": 7 + number, "elapsed_steps": length})
            if observed and mode == "state":
                traj["obs"] = walk(length + 1, 42, 20 + number).astype(np.float32)
            elif observed:
                traj["obs/agent/qpos"] = walk(length + 1, 9, 20 + number).astype(np.float32)
                traj["obs/extra/is_grasped"] = np.zeros(length + 1, bool)
                camera = traj.create_group("obs/sensor_data/base_camera")
                camera["rgb"] = images(length + 1, 24, 32, number)
                camera["depth"] = np.full((length + 1, 24, 32, 1), 700 + number, np.int16)
                traj["obs/sensor_param/base_camera/extrinsic_cv"] = np.zeros((length + 1, 3, 4), np.float32)
    env = {"env_id": "PickCube-v1", "env_kwargs": {"control_mode": "pd_ee_delta_pose", "obs_mode": mode}}
    path.with_suffix(".json").write_text(json.dumps({"env_info": env, "episodes": episodes}))
    return path
