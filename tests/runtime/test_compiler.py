"""Flags for XLA: ours are added, the user's stay, and a GPU's plugin decides whether there are any."""

from ddllm.runtime import compiler


def test_ours_are_added_and_the_users_stay():
    ours = compiler.with_flags({})
    assert ours.split() == [f"{name}={value}" for name, value in compiler.FLAGS.items()]
    mine = "--xla_gpu_enable_triton_gemm=true --xla_dump_to=there"
    found = compiler.with_flags({"XLA_FLAGS": mine}).split()
    assert found[:2] == mine.split() and len(found) == 2 + len(compiler.FLAGS) - 1
    assert compiler.with_flags({"XLA_FLAGS": ours}) == ours


def test_only_where_programs_for_gpus_can_be_compiled(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=there")
    monkeypatch.setattr(compiler, "PLUGINS", ("jax_plugins.no_such_plugin", "no_such_package.plugin"))
    compiler.set_compiler_flags()
    assert compiler.os.environ["XLA_FLAGS"] == "--xla_dump_to=there"
    monkeypatch.setattr(compiler, "PLUGINS", ("json.decoder",))
    compiler.set_compiler_flags()
    assert all(name in compiler.os.environ["XLA_FLAGS"] for name in compiler.FLAGS)
