"""Names of accounts as the chart's fence expects them (V12)."""

from __future__ import annotations

from agent.objects.identity import CellIdentity
from agent.objects.model import Role


def test_v12_account_is_the_namespace_with_a_prefix() -> None:
    """The fence compares exactly this."""
    who = CellIdentity("shop--web--dev", "cellward-system")
    assert who.user == "system:serviceaccount:cellward-system:cell-shop--web--dev"
    assert who.user_of(Role.OBJECT) == who.user
    assert who.user_of(Role.ISOLATION) is None
    assert who.manager_of(Role.OBJECT) == "cellward/shop--web--dev"
    assert who.manager_of(Role.NAMESPACE) == "cellward-agent"


def test_v12_long_names_are_cut_and_stay_apart() -> None:
    """A namespace has up to 60 characters, an account's name 63."""
    names = {CellIdentity(f"{'p' * 20}--{'c' * 24}--{'e' * 10}{n:02}", "x").account for n in range(20)}
    assert len(names) == 20
    assert max(map(len, names)) <= 63
    assert all(name.startswith("cell-") for name in names)


def test_v12_binding_names_one_role_and_one_account() -> None:
    """The only RoleBinding the agent may write."""
    account, binding = CellIdentity("a--b--c", "cellward-system").rights({"cellward.dev/cell": "b"})
    assert binding.manifest["metadata"]["name"] == "cellward-cell"
    assert binding.manifest["roleRef"]["name"] == "cellward-cell"
    (subject,) = binding.manifest["subjects"]
    assert subject["name"] == account.manifest["metadata"]["name"]
    assert subject["namespace"] == account.manifest["metadata"]["namespace"] == "cellward-system"
