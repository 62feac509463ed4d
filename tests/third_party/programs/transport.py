"""ott-jax: progress of solvers, and host code inside them."""

import jax
import jax.numpy as jnp
import tqdm
from ott import utils
from ott.geometry import geodesic, pointcloud
from ott.problems.linear import linear_problem
from ott.problems.quadratic import quadratic_problem
from ott.solvers import linear
from ott.solvers.linear import sinkhorn, sinkhorn_lr
from ott.solvers.quadratic import gromov_wasserstein
from ott.tools import conformal


def _points(seed, n=12, d=2):
    return jax.random.normal(jax.random.key(seed), (n, d))


def _geometry():
    return pointcloud.PointCloud(_points(0), _points(1) + 1, epsilon=0.3)


def sinkhorn_progress():
    solve = jax.jit(linear.solve, static_argnames=["progress_fn"])
    return solve(_geometry(), progress_fn=utils.default_progress_fn()).reg_ot_cost


def sinkhorn_progress_under_vmap():
    solver = sinkhorn.Sinkhorn(progress_fn=utils.default_progress_fn(), max_iterations=60)

    def solve(x):
        return solver(linear_problem.LinearProblem(pointcloud.PointCloud(x, _points(1)))).f

    return jax.jit(jax.vmap(solve))(jnp.stack([_points(0), _points(2)]))


def sinkhorn_bar():
    with tqdm.tqdm() as bar:
        solver = sinkhorn.Sinkhorn(progress_fn=utils.tqdm_progress_fn(bar))
        cost = jax.jit(solver)(linear_problem.LinearProblem(_geometry())).reg_ot_cost
        jax.block_until_ready(cost)
        jax.effects_barrier()
    return cost


def sinkhorn_differentiated():
    solver = sinkhorn.Sinkhorn(progress_fn=utils.default_progress_fn())

    def cost(x):
        return solver(
            linear_problem.LinearProblem(pointcloud.PointCloud(x, _points(1)))
        ).reg_ot_cost

    return jax.jit(jax.value_and_grad(cost))(_points(0))


def low_rank_progress():
    solver = sinkhorn_lr.LRSinkhorn(
        rank=2, progress_fn=utils.default_progress_fn(), max_iterations=40, min_iterations=0
    )
    return jax.jit(solver)(linear_problem.LinearProblem(_geometry())).costs


def gromov_wasserstein_progress():
    def report(status):
        iteration, inner, total, _ = status
        print(f"{int(iteration)} of {int(total)}")

    x, y = pointcloud.PointCloud(_points(0)), pointcloud.PointCloud(_points(1))
    solver = gromov_wasserstein.GromovWasserstein(
        linear_solver=sinkhorn.Sinkhorn(), epsilon=1.0, max_iterations=5, progress_fn=report
    )
    return jax.jit(solver)(quadratic_problem.QuadraticProblem(x, y)).costs


def chebychev_coefficients():
    ring = jnp.roll(jnp.eye(8), 1, axis=1)
    geometry = geodesic.Geodesic.from_graph(ring + ring.T, t=0.1)
    return jax.jit(geometry.apply_kernel)(jnp.arange(8.0))


def sobol_points():
    draw = jax.jit(lambda key: conformal.sobol_ball_sampler(key, shape=(16, 2), n_per_radius=4))
    return draw(jax.random.key(0))
