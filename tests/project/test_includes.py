"""A native file includes the standard header of each name that it uses, and a header compiles alone. A name that came
with somebody else's include comes with another compiler's library, or does not: GCC 14 built nothing of this tree."""

import json
import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

# What the standard library declares where, as far as the tree uses it. A name of the language's C part is listed
# without `std::` and holds with and without. A name with several homes stands with each of them.
HEADERS = {
    "algorithm": """all_of any_of none_of find find_if find_if_not sort stable_sort is_sorted shuffle equal count
        count_if copy copy_n fill fill_n rotate replace remove remove_if generate upper_bound lower_bound clamp min max
        minmax min_element reverse unique nth_element next_permutation partial_sort""",
    "array": "array get size begin end",
    "atomic": "atomic atomic_ref atomic_thread_fence memory_order_relaxed memory_order_release memory_order_acquire "
    "memory_order_acq_rel memory_order_seq_cst",
    "bit": "has_single_bit bit_width bit_floor bit_ceil bit_cast rotr countr_zero countl_zero popcount endian",
    "cerrno": "errno",
    "charconv": "from_chars to_chars",
    "chrono": "chrono",
    "climits": "INT_MAX INT_MIN UINT_MAX LONG_MAX LONG_MIN ULONG_MAX CHAR_BIT",
    "cmath": "isfinite isnan ceil floor pow sqrt log exp round",
    "compare": "strong_ordering weak_ordering partial_ordering",
    "condition_variable": "condition_variable",
    "csignal": "signal raise",
    "cstddef": "byte to_integer size_t ptrdiff_t nullptr_t max_align_t offsetof",
    "cstdint": """int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t INT8_MAX INT16_MAX
        INT32_MAX INT64_MAX UINT8_MAX UINT16_MAX UINT32_MAX UINT64_MAX INT32_MIN INT64_MIN UINTPTR_MAX SIZE_MAX""",
    "cstdio": """printf fprintf snprintf vsnprintf sscanf fflush fputs puts perror getchar fgetc remove FILE fopen fclose
        fread fwrite stdout stderr EOF""",
    "cstdlib": "strtoull strtoul strtol strtod getenv exit free malloc calloc aligned_alloc abort atexit _Exit",
    "cstring": "memcpy memset memcmp memmove memchr strcmp strncmp strlen strerror strchr strrchr strstr",
    "ctime": "time_t timespec clock_gettime",
    "deque": "deque erase erase_if size begin end",
    "exception": "exception exception_ptr current_exception rethrow_exception terminate set_terminate",
    "filesystem": "filesystem",
    "forward_list": "forward_list",
    "fstream": "ifstream ofstream fstream",
    "functional": "function hash less greater invoke ref",
    "future": "future async launch future_status promise",
    "initializer_list": "initializer_list",
    "iomanip": "setw setfill setprecision",
    "ios": "hex dec",
    "iostream": "cin cout cerr",
    "istream": "istream",
    "iterator": """prev next distance advance begin end size data make_move_iterator back_inserter inserter
        istreambuf_iterator""",
    "limits": "numeric_limits",
    "list": "list erase erase_if size begin end",
    "map": "map multimap erase_if size begin end",
    "memory": """unique_ptr make_unique shared_ptr make_shared weak_ptr enable_shared_from_this dynamic_pointer_cast
        static_pointer_cast addressof hash""",
    "mutex": "mutex lock_guard unique_lock scoped_lock once_flag call_once adopt_lock defer_lock",
    "new": "align_val_t bad_alloc set_new_handler nothrow nothrow_t",
    "numeric": "iota accumulate gcd lcm midpoint",
    "optional": "optional nullopt hash",
    "ostream": "ostream endl",
    "random": """mt19937 mt19937_64 minstd_rand random_device uniform_real_distribution uniform_int_distribution
        exponential_distribution normal_distribution bernoulli_distribution""",
    "regex": "regex smatch sregex_iterator regex_search regex_match",
    "set": "set multiset erase_if size begin end",
    "span": "span as_bytes as_writable_bytes dynamic_extent size begin end data",
    "sstream": "istringstream ostringstream stringstream",
    "stdexcept": "runtime_error logic_error invalid_argument out_of_range length_error",
    "string": "string to_string stoull stoul stoi stod getline hash erase erase_if size begin end",
    "string_view": "string_view hash size begin end",
    "system_error": "error_code system_error errc generic_category system_category make_error_code",
    "thread": "thread this_thread hash",
    "tuple": "tuple tie get make_tuple forward_as_tuple apply",
    "type_traits": """has_unique_object_representations_v is_trivially_copyable_v is_pointer_v is_standard_layout_v
        is_same_v is_integral_v is_unsigned_v is_enum_v is_void_v is_nothrow_move_constructible_v is_trivially_destructible_v
        enable_if_t conditional_t decay_t remove_cvref_t underlying_type_t invoke_result_t true_type false_type""",
    "unordered_map": "unordered_map unordered_multimap erase_if size begin end",
    "unordered_set": "unordered_set erase_if size begin end",
    "utility": "move forward pair exchange swap get declval as_const in_place_index in_place index_sequence make_pair cmp_less",
    "variant": "variant get get_if holds_alternative visit monostate hash",
    "vector": "vector erase erase_if size begin end",
}
# Names that are the library's without `std::` before them as well: macros, and what C gives. Words that members and
# variables may bear too (free, remove, exit) count only behind `std::`.
UNQUALIFIED = {
    *("errno", "offsetof", "size_t", "ptrdiff_t", "time_t", "stderr", "stdout", "FILE"),
    *HEADERS["cstdint"].split(),
    *HEADERS["climits"].split(),
    *HEADERS["cstring"].split(),
    *("printf", "fprintf", "snprintf", "vsnprintf", "sscanf", "perror", "getenv", "strtoull", "strtoul", "strtol"),
}
# A header that declares more than its own names, because the standard says so.
PROMISED = {"cstdio": {"size_t"}, "cstring": {"size_t"}, "cstdlib": {"size_t"}, "ctime": {"size_t"}}

NOT_CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<!\w)\'(?:\\.|[^\'\\\n])+\'', re.DOTALL
)
INCLUDE = re.compile(r"^\s*#\s*include\s*<([a-z_]+)>", re.MULTILINE)
INCLUDE_LINE = re.compile(r"^\s*#\s*include\b.*$", re.MULTILINE)
QUALIFIED_NAME = re.compile(r"\bstd::(\w+)")
PLAIN_NAME = re.compile(rf"(?<![\w.])(?<!->)(?<!(?<!std)::)(?:{'|'.join(sorted(UNQUALIFIED))})\b")


OF_THE_BUILD = "of the build"
CLANG_MOST, CLANG_LEAST = 21, 14  # as tools/setup.sh looks for one


@cache
def homes() -> dict[str, frozenset[str]]:
    """For each name the headers of which any one will do."""
    found: dict[str, set[str]] = {}
    for header, names in HEADERS.items():
        for name in (*names.split(), *PROMISED.get(header, ())):
            found.setdefault(name, set()).add(header)
    return {name: frozenset(headers) for name, headers in found.items()}


def names_of(text: str) -> set[str]:
    """The names of the standard library that the code uses."""
    code = NOT_CODE.sub(" ", INCLUDE_LINE.sub("", text))
    return set(QUALIFIED_NAME.findall(code)) | set(PLAIN_NAME.findall(code))


def missing_from(text: str) -> dict[str, frozenset[str]]:
    """Each name that the text uses without a header that declares it: the headers that would."""
    included = set(INCLUDE.findall(text))
    return {name: homes()[name] for name in names_of(text) & homes().keys() if not homes()[name] & included}


def native_files(files: tuple[Path, ...], *suffixes: str) -> list[Path]:
    return [path for path in files if path.parts[0] == "native" and path.suffix in suffixes]


def test_every_standard_name_comes_with_its_header(root: Path, files: tuple[Path, ...]) -> None:
    wrong = []
    for path in native_files(files, ".h", ".cc"):
        for name, headers in sorted(missing_from((root / path).read_text(encoding="utf-8")).items()):
            wrong.append(f"{path} uses {name} without {' or '.join(f'<{header}>' for header in sorted(headers))}")
    assert not wrong, "include what you use:\n" + "\n".join(wrong)


def test_every_standard_name_is_known(root: Path, files: tuple[Path, ...]) -> None:
    unknown = {
        f"{name} in {path}"
        for path in native_files(files, ".h", ".cc")
        for name in names_of((root / path).read_text(encoding="utf-8")) - homes().keys()
    }
    assert not unknown, f"write in HEADERS which header declares: {sorted(unknown)}"


@cache
def commands(root: Path) -> dict[str, list[str]]:
    """How the build compiles a file of each folder of native/: its words, without what names input and output. The
    headers of testing/ are for tests, and compiled as tests are."""
    found: dict[str, list[str]] = {}
    for entry in json.loads((root / "build/native/compile_commands.json").read_text(encoding="utf-8")):
        path = Path(entry["file"])
        if root / "native" in path.parents:
            words = shlex.split(entry["command"])
            folder, kept = path.relative_to(root / "native").parts[0], words[: words.index("-o")]
            if path.stem.endswith("_test"):
                found["testing"] = kept
            else:
                found.setdefault(folder, kept)
    return found


def compilers() -> list[str]:
    """That of the build, and the newest clang where one is installed. In CI one has to be."""
    clangs = [f"clang++-{version}" for version in range(CLANG_MOST, CLANG_LEAST - 1, -1)]
    found = [name for name in clangs if shutil.which(name)][:1]
    if not found and os.environ.get("CAIRN_CLANG_REQUIRED"):
        found = ["clang++"]  # which fails, and says that it is not there
    return [OF_THE_BUILD, *found]


def complaint_about(root: Path, header: Path, compiler: str) -> str:
    """What the compiler says of a file that includes this header and nothing else; empty: it compiles."""
    words = commands(root)[header.parts[1]]
    if compiler != OF_THE_BUILD:
        words = [compiler, *words[words.index(next(word for word in words if word.startswith("-"))) :]]
    said = subprocess.run(
        [*words, "-fsyntax-only", "-x", "c++", "-"],
        input=f'#include "{header.relative_to("native")}"\n',
        cwd=root / "build/native",
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if said.returncode == 0 else f"{header}:\n{said.stderr}"


FOLDERS = sorted({path.parent.name for path in (Path(__file__).resolve().parents[2] / "native").rglob("*.h")})


@pytest.mark.timeout(900)  # many calls of the compiler: a machine with other work takes minutes for them
@pytest.mark.parametrize("compiler", compilers())
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_header_compiles_alone(folder: str, compiler: str, root: Path, files: tuple[Path, ...]) -> None:
    headers = [path for path in native_files(files, ".h") if path.parts[1] == folder]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        complaints = list(filter(None, pool.map(lambda header: complaint_about(root, header, compiler), headers)))
    assert not complaints, "\n".join(complaints)


def test_the_rules_themselves() -> None:
    """A rule that cannot fail is no rule."""
    assert names_of('// std::map\nstd::string a; /* uint8_t */ uint16_t b; x.errno; "std::set" a->size_t;') == {
        "string",
        "uint16_t",
    }
    assert set(missing_from("#include <string>\nstd::string a; uint16_t b;")) == {"uint16_t"}
    assert set(missing_from("#include <map>\nstd::erase_if(a, b); std::vector<int> c;")) == {"vector"}
    assert not missing_from("#include <cstring>\nsize_t a; std::size_t b; std::memcpy(a, b, c);")
    assert not missing_from("int a = 1'000'000; char b = '\"'; std::chrono::seconds c;\n#include <chrono>")
