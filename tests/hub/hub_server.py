"""A small Hub on loopback, for the real `huggingface_hub` client: accounts, repositories, commits, large files.

    with Hub() as hub:
        hub.add_account("ada", token="hf_ada")
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_ada", "HF_HUB_DISABLE_XET": "1"}

It answers what the client asks when a model is uploaded and downloaded over HTTP and Git LFS; Xet is not offered. A
commit is taken as a whole or not at all.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE_SUFFIXES = (".safetensors", ".bin", ".png")  # what a new repository's .gitattributes gives to LFS
LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "other"}


class Refusal(Exception):
    """An answer of the Hub that is an error: status, message, and the code that the client goes by."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class Account:
    name: str
    token: str
    may_write: bool = True


@dataclass
class Repository:
    """Commits, the oldest first; each a message and all files by path. Tags are commits' hashes by name."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("initial commit", {})])
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def commit_hash(self, number: int = -1) -> str:
        return hashlib.sha1(repr((number % len(self.commits), self.commits[number][0])).encode()).hexdigest()

    def resolve(self, revision: str) -> str:
        """The hash of the commit that a branch, a tag or a hash names."""
        named = {**self.tags, "main": self.commit_hash()}.get(revision, revision)
        if named not in map(self.commit_hash, range(len(self.commits))):
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return named

    def at(self, revision: str) -> dict[str, bytes]:
        hashes = [self.commit_hash(number) for number in range(len(self.commits))]
        return self.commits[hashes.index(self.resolve(revision))][1]


class Hub:
    """The server and all that it holds. As a context it listens at `url`."""

    def __init__(self):
        self.accounts: dict[str, Account] = {}
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}  # by their SHA-256
        self.requests: list[str] = []
        self.hangs_in_uploads = False  # a large file is taken half and no answer given
        self.drops_commits = False  # the connection ends before a commit is answered
        self.upload_hangs = threading.Event()
        self.closes = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage_url = f"http://localhost:{self.server.server_port}"  # large files are on a host of their own

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.closes.set()
        self.server.shutdown()
        self.server.server_close()

    def add_account(self, name: str, token: str, may_write: bool = True) -> None:
        self.accounts[token] = Account(name, token, may_write)

    def find(self, name: str) -> Repository:
        if name not in self.repositories:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return self.repositories[name]

    def commit(self, name: str, lines: list[dict]) -> str:
        """Apply a commit's operations to a copy of the files, and only then keep it."""
        repository = self.find(name)
        files, message = dict(repository.files), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.large_files:
                    raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = self.large_files[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Refusal(400, f"{line['key']} is not an operation of this server")
        check_card(files.get("README.md", b"---\n---\n").decode())
        repository.commits.append((message, files))
        return repository.commit_hash()


def check_card(text: str) -> None:
    """Refuse a model card as the Hub does: an unknown licence, a language that is no code, an odd `model-index`."""
    metadata = yaml.safe_load(text.split("---\n")[1]) or {}
    problems = []
    if metadata.get("license", "mit") not in LICENSES:
        problems.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}]')
    for language in metadata.get("language", []):
        if not re.fullmatch("[a-z]{2,3}|multilingual|code", str(language)):
            problems.append(f'"language[0]" must be an ISO 639-1, 639-2 or 639-3 code, not {language}')
    for name in metadata.get("datasets", []):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            problems.append(f'"datasets[0]" with value {name} is not valid')
    for model in metadata.get("model-index", []):
        for result in model["results"]:
            described = result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
            if not described or not all(metric["type"] and "value" in metric for metric in result["metrics"]):
                problems.append('"model-index" is not valid')
    if problems:
        raise Refusal(400, "; ".join(problems), "InvalidMetadata")


def is_large(path: str, size: int) -> bool:
    return path.endswith(LARGE_SUFFIXES) or size > 10 << 20


def is_ignored(path: str, gitignore: str) -> bool:
    """Whether one of the patterns names the file or a folder it is in."""
    patterns = [line.rstrip("/") for line in gitignore.splitlines() if line]
    return any(fnmatch(part, pattern) for part in path.split("/") for pattern in patterns)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob_id(content: bytes) -> str:
    """Git's name for a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def described(path: str, content: bytes) -> dict:
    """A file in a listing."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    if is_large(path, len(content)):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
    return entry


NAME, REVISION = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<revision>[^/]+)"


class Handler(BaseHTTPRequestHandler):
    """One request; `ROUTES`, below, says which method answers it."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def answer_by_route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.content: bytes | None = None  # one handler answers all requests of a connection
        try:
            for method, pattern, answer in ROUTES:
                if (match := re.fullmatch(pattern, path)) and self.command in method.split():
                    return answer(self, **match.groupdict())
            raise Refusal(404, f"{self.command} {path} is not known to this server")
        except Refusal as refusal:
            self.body()
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            errors = [{"message": refusal.message}]
            self.answer({"error": refusal.message, "errors": errors, "warnings": []}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer_by_route

    def answer(self, content: dict | list | bytes, status: int = 200, headers: dict | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):  # a client that was killed
                self.wfile.write(body)

    def body(self) -> bytes:
        """The request's content, read once."""
        if self.content is None:
            self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return self.content

    def account(self) -> Account:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.hub.accounts:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.accounts[token]

    def check_writer(self, name: str) -> None:
        account = self.account()
        if not account.may_write or name.split("/")[0] != account.name:
            raise Refusal(403, f"You don't have the rights to write to {name}")

    # --- accounts and repositories --------------------------------------------------------------------------------

    def whoami(self) -> None:
        account = self.account()
        role = {"role": "write" if account.may_write else "read"}
        self.answer({"type": "user", "name": account.name, "orgs": [], "auth": {"accessToken": role}})

    def create_repository(self) -> None:
        request = json.loads(self.body())
        name = f"{request['organization'] or self.account().name}/{request['name']}"
        self.check_writer(name)
        known = name in self.hub.repositories
        self.hub.repositories.setdefault(name, Repository())
        self.answer(
            {"url": f"{self.hub.url}/{name}", "error": "You already created this model repo"}, 409 if known else 200
        )

    def auth_check(self, name: str) -> None:
        self.hub.find(name)
        self.check_writer(name)
        self.answer({})

    def validate_card(self) -> None:
        check_card(json.loads(self.body())["content"])
        self.answer({"errors": [], "warnings": []})

    # --- uploads --------------------------------------------------------------------------------------------------

    def preupload(self, name: str, revision: str) -> None:
        self.check_writer(name)
        request, files = json.loads(self.body()), self.hub.find(name).at(revision)
        gitignore = request.get("gitIgnore", files.get(".gitignore", b"").decode())
        answers = []
        for file in request["files"]:
            path, size = file["path"], file["size"]
            known = files.get(path)
            large = is_large(path, size)
            answer = {"path": path, "uploadMode": "lfs" if large else "regular"}
            answer |= {"shouldIgnore": is_ignored(path, gitignore)}
            if known is not None:
                answer["oid"] = sha256(known) if large else blob_id(known)
            answers.append(answer)
        self.answer({"files": answers})

    def large_file_batch(self, name: str) -> None:
        self.check_writer(name)
        objects = []
        for wanted in json.loads(self.body())["objects"]:
            actions = {"upload": {"href": f"{self.hub.storage_url}/large/{wanted['oid']}"}}
            actions |= {"verify": {"href": f"{self.hub.storage_url}/large/{wanted['oid']}/verify"}}
            known = wanted["oid"] in self.hub.large_files
            objects.append({**wanted} if known else {**wanted, "actions": actions})
        self.answer({"transfer": "basic", "objects": objects})

    def put_large_file(self, oid: str) -> None:
        if self.hub.hangs_in_uploads:
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.hub.upload_hangs.set()
            self.hub.closes.wait()
        content = self.body()
        if sha256(content) != oid:
            raise Refusal(400, "The content does not have the digest it was announced with")
        self.hub.large_files[oid] = content
        self.answer(b"")

    def verify_large_file(self, oid: str) -> None:
        if len(self.hub.large_files.get(oid, b"")) != json.loads(self.body())["size"]:
            raise Refusal(404, "There is no such object")
        self.answer({})

    def commit(self, name: str, revision: str) -> None:
        self.check_writer(name)
        lines = [json.loads(line) for line in self.body().splitlines()]
        if self.hub.drops_commits:
            self.close_connection = True
            return
        oid = self.hub.commit(name, lines)
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    # --- revisions ------------------------------------------------------------------------------------------------

    def create_tag(self, name: str, revision: str) -> None:
        self.check_writer(name)
        repository, tag = self.hub.find(name), json.loads(self.body())["tag"]
        if tag in repository.tags:
            raise Refusal(409, "Tag reference exists already")
        repository.tags[tag] = repository.resolve(revision)
        self.answer({})

    def list_refs(self, name: str) -> None:
        repository = self.hub.find(name)
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repository.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commit_hash()}
        self.answer({"branches": [main], "tags": tags, "converts": []})

    def describe_files(self, name: str, revision: str) -> None:
        files = self.hub.find(name).at(revision)
        asked = parse_qs(self.body().decode())["paths"]
        self.answer([described(path, files[path]) for path in asked if path in files])

    # --- downloads ------------------------------------------------------------------------------------------------

    def model_info(self, name: str, revision: str = "main") -> None:
        repository = self.hub.find(name)
        siblings = [{"rfilename": path} for path in repository.at(revision)]
        self.answer(
            {"id": name, "sha": repository.resolve(revision), "siblings": siblings, "private": False, "tags": []}
        )

    def list_files(self, name: str, revision: str, folder: str | None = None) -> None:
        files = self.hub.find(name).at(revision)
        inside = (
            {path: content for path, content in files.items() if path.startswith(f"{folder}/")} if folder else files
        )
        found = [described(path, content) for path, content in inside.items()]
        if folder and not found:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        self.answer(found)

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.hub.find(name)
        files = repository.at(revision)
        headers = {"X-Repo-Commit": repository.resolve(revision)}
        if path not in files:
            return self.answer({}, 404, headers | {"X-Error-Code": "EntryNotFound"})
        content = files[path]
        if not is_large(path, len(content)):
            return self.answer(content, headers=headers | {"ETag": f'"{blob_id(content)}"'})
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{sha256(content)}"'}
        self.answer(b"", 302, headers | {"Location": f"{self.hub.storage_url}/large/{sha256(content)}"})

    def get_large_file(self, oid: str) -> None:
        self.answer(self.hub.large_files[oid], headers={"ETag": f'"{oid}"'})


ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create_repository),
    ("GET", f"/api/models/{NAME}/auth-check/write", Handler.auth_check),
    ("POST", "/api/validate-yaml", Handler.validate_card),
    ("POST", f"/api/models/{NAME}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.large_file_batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]{64})", Handler.put_large_file),
    ("POST", "/large/(?P<oid>[0-9a-f]{64})/verify", Handler.verify_large_file),
    ("POST", f"/api/models/{NAME}/commit/{REVISION}", Handler.commit),
    ("POST", f"/api/models/{NAME}/tag/{REVISION}", Handler.create_tag),
    ("GET", f"/api/models/{NAME}/refs", Handler.list_refs),
    ("POST", f"/api/models/{NAME}/paths-info/{REVISION}", Handler.describe_files),
    ("GET", f"/api/models/{NAME}", Handler.model_info),
    ("GET", f"/api/models/{NAME}/revision/{REVISION}", Handler.model_info),
    ("GET", f"/api/models/{NAME}/tree/{REVISION}(/(?P<folder>.+))?", Handler.list_files),
    ("HEAD GET", f"/{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
    ("HEAD GET", "/large/(?P<oid>[0-9a-f]{64})", Handler.get_large_file),
]
