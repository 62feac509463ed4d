"""What does not hold where JAX's callbacks call callbax's, on TPU or by CALLBAX_RUNTIME; where arrays
are copied to the host; and where callbax's differ from JAX's so that JAX's, on callbax's runtime, do
not do it (helpers.INSTALLED).

Each has its reason. What is portable has a row in the table of docs/sharp-bits.md.
"""

import os

import fake_cuda
import jax
import pytest

IS_INSTALLED = os.environ.get("CALLBAX_PARITY") == "installed"
PLATFORM = os.environ.get("JAX_PLATFORMS", "cpu").partition(",")[0]
IS_PORTABLE = os.environ.get("CALLBAX_RUNTIME") == "portable" or PLATFORM not in ("cpu", "cuda")
# The host's arrays are not XLA's memory.
IS_COPIED = IS_PORTABLE or fake_cuda.IS_ON or PLATFORM != "cpu"

# By reason: what the names of the tests begin with.
EXPECTED = {
    "JAX puts lines of its own in front of the message": (
        "runtime/test_errors.py::test_message_names_the_callback_its_place",
    ),
    "programs call an index of JAX's, and not a name": (
        "runtime/test_identity.py::test_importable_functions_are_named_by_module",
        "runtime/test_identity.py::test_structure_of_the_arguments_is_part_of_the_name",
        "runtime/test_identity.py::test_programs_are_byte_identical_in_two_processes[",
        "runtime/test_identity.py::test_other_functions_get_a_label_and_a_number",
        "runtime/test_identity.py::test_numbers_of_functions_that_are_gone_are_used_again",
        "runtime/test_names.py::test_a_given_name_is_written_in_the_program",
        "runtime/test_out.py::test_equal_functions_are_traced_once",
        "runtime/test_views.py::test_programs_say_it_only_if_asked",
        "external/test_memory.py::test_a_given_name_is_written_in_the_program",
        "compiled/test_native.py::test_functions_that_others_can_import_are_named_by_module",
        "compiled/test_native.py::test_user_data_takes_the_stable_name_away",
    ),
    "compiled functions run on one thread": (
        "compiled/test_native.py::test_a_large_call_is_split_over_threads_only_if",
        "compiled/test_native.py::test_threads_that_take_part[True]",
    ),
    "compiled functions run on one device": (
        "compiled/test_native.py::test_a_sharded_call_runs_where_its_items_are",
    ),
}
EXPECTED_OF_COPIES = {
    "arrays are copied between XLA's memory and the host's": (
        "runtime/test_out.py::test_the_array_is_the_result_after_the_first_call",
        "runtime/test_views.py::test_arguments_are_xlas_memory_after_the_first_call",
    ),
}
EXPECTED_OF_INSTALLED = {
    "lanes of a while_loop that is ordered do not stop on time in JAX": (
        "parity/test_vmap_effects.py::test_batched_while_condition_ordered",
    ),
    "the type of JAX's error": (
        "parity/test_vmap_effects.py::test_while_with_batched_predicate_and_io",
    ),
    "JAX's pure_callback wants a vmap_method": (
        "parity/test_differences.py::test_pure_callback_vmaps_without_a_method",
    ),
    "JAX stops before it comes to the rules": (
        "parity/test_differences.py::test_multi_platform_lowering_works[debug",
    ),
}

if jax.__version_info__ < (0, 11):
    EXPECTED["JAX does not keep programs with its own callbacks in the persistent cache"] = (
        "parity/test_differences.py::test_the_persistent_compile_cache",
    )


def expect_differences(items):
    """Marks the tests that are expected to fail, and must."""
    expected = {
        **(EXPECTED if IS_PORTABLE else {}),
        **(EXPECTED_OF_COPIES if IS_COPIED else {}),
        **(EXPECTED_OF_INSTALLED if IS_INSTALLED else {}),
    }
    for item in items:
        for reason, starts in expected.items():
            if item.nodeid.removeprefix("tests/").startswith(starts):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
