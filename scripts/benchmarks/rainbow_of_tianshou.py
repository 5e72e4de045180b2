"""Steps per second of tianshou's Rainbow on an Atari game, for :mod:`scripts.benchmarks.rainbow`.

``python -m scripts.benchmarks.rainbow_of_tianshou breakout 1000 2000`` plays and learns for 1000
steps that are not measured and then for 2000 that are, and prints the steps per second of the
latter. Network, memory and agent are tianshou's. The wrappers of the game are gymnasium's, because
tianshou's fail with today's numpy. It runs in an environment of its own, because tianshou needs
older versions than those of ``constraints.txt``.
"""

import sys
import time

import ale_py
import gymnasium
import torch
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from tianshou.algorithm import RainbowDQN
from tianshou.algorithm.modelfree.c51 import C51Policy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, PrioritizedVectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.env.atari.atari_network import RainbowNet, ScaledObsInputActionReprNet
from tianshou.utils.torch_utils import policy_within_training_step

TRAIN_EVERY, BATCH, REPLAY = 4, 32, 100_000


def main() -> None:
    """Play for some steps that are not measured, then for some that are."""
    game, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(f"{game.title()}NoFrameskip-v4", frameskip=1)
    env = FrameStackObservation(AtariPreprocessing(env, terminal_on_life_loss=True), 4)
    network = RainbowNet(c=4, h=84, w=84, action_shape=[int(env.action_space.n)])
    policy = C51Policy(
        model=ScaledObsInputActionReprNet(network),
        action_space=env.action_space,
        observation_space=env.observation_space,
        eps_training=0.01,
    )
    algorithm = RainbowDQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=6.25e-5, eps=1.5e-4),
        n_step_return_horizon=3,
        target_update_freq=10_000 // TRAIN_EVERY,
    )
    memory = PrioritizedVectorReplayBuffer(
        REPLAY, buffer_num=1, alpha=0.5, beta=0.4, stack_num=4, ignore_obs_next=True,
        save_only_last_obs=True,
    )  # fmt: skip
    collector = Collector(algorithm, DummyVectorEnv([lambda: env]), memory, exploration_noise=True)
    collector.reset()
    with policy_within_training_step(policy):
        collector.collect(n_step=warmup // 2)
        for step in range(warmup // 2, warmup + steps, TRAIN_EVERY):
            if step <= warmup < step + TRAIN_EVERY:
                start = time.perf_counter()
            collector.collect(n_step=TRAIN_EVERY)
            algorithm.update(memory, BATCH)
    print(steps / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
