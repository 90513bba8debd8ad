"""The roles: their integers are stored in data, and the module stays importable without torch."""

import subprocess
import sys

from actfocus_verl.credit.tokens import RESPONSE_ROLES, TokenRole


def test_values_are_those_stored_in_the_column():
    assert {role.name: role.value for role in TokenRole} == {
        "ENVIRONMENT": 0,
        "REASONING": 1,
        "ACTION": 2,
        "FORMAT": 3,
    }


def test_response_roles_are_all_but_environment():
    assert set(RESPONSE_ROLES) == set(TokenRole) - {TokenRole.ENVIRONMENT}


def test_importing_the_roles_does_not_import_torch():
    code = "import sys, actfocus_verl.credit.tokens; sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
