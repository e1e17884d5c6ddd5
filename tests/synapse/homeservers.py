"""Engram and Synapse as processes, each with a client listener and a TLS one."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

START_SECONDS = 90
SYNAPSE = """\
server_name: "{name}"
pid_file: {folder}/pid
public_baseurl: "http://{client[0]}:{client[1]}/"
listeners:
  - port: {client[1]}
    bind_addresses: ["{client[0]}"]
    type: http
    resources: [{{names: [client]}}]
  - port: {federation[1]}
    bind_addresses: ["{federation[0]}"]
    type: http
    tls: true
    resources: [{{names: [federation]}}]
tls_certificate_path: "{certificate}"
tls_private_key_path: "{key}"
federation_custom_ca_list: ["{authority}"]
federation_verify_certificates: true
ip_range_blacklist: []
database:
  name: sqlite3
  args: {{database: "{folder}/homeserver.db"}}
log_config: "{folder}/log.yaml"
media_store_path: "{folder}/media"
signing_key_path: "{folder}/signing.key"
registration_shared_secret: "secret"
macaroon_secret_key: "secret"
form_secret: "secret"
report_stats: false
enable_registration: true
enable_registration_without_verification: true
trusted_key_servers: []
allow_public_rooms_over_federation: true
room_list_publication_rules: [{{action: allow}}]
presence: {{enabled: true}}
federation:
  client_timeout: 20s
  destination_min_retry_interval: 200
  destination_retry_multiplier: 1
  destination_max_retry_interval: 500
  max_short_retry_delay: 500
  max_long_retries: 1
  max_long_retry_delay: 1s
  max_short_retries: 1
rc_message: {{per_second: 100000, burst_count: 100000}}
rc_registration: {{per_second: 100000, burst_count: 100000}}
rc_login:
  address: {{per_second: 100000, burst_count: 100000}}
  account: {{per_second: 100000, burst_count: 100000}}
rc_joins:
  local: {{per_second: 100000, burst_count: 100000}}
  remote: {{per_second: 100000, burst_count: 100000}}
rc_joins_per_room: {{per_second: 100000, burst_count: 100000}}
rc_invites:
  per_room: {{per_second: 100000, burst_count: 100000}}
  per_user: {{per_second: 100000, burst_count: 100000}}
  per_issuer: {{per_second: 100000, burst_count: 100000}}
rc_federation: {{sleep_limit: 100000, reject_limit: 100000, concurrent: 100}}
"""
SYNAPSE_LOG = """\
version: 1
formatters: {{precise: {{format: '%(asctime)s %(name)s %(levelname)s %(request)s %(message)s'}}}}
handlers: {{file: {{class: logging.FileHandler, formatter: precise, filename: '{folder}/log'}}}}
root: {{level: INFO, handlers: [file]}}
disable_existing_loggers: false
"""


def free_port(host):
    with socket.create_server((host, 0)) as listener:
        return listener.getsockname()[1]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


class Homeserver:
    """A process that can be stopped, killed and started again at the same addresses."""

    def __init__(self, name, folder, host):
        self.name, self.folder = name, pathlib.Path(folder)
        self.folder.mkdir()
        self.client = (host, free_port(host))
        self.federation = (host, free_port(host))
        self.url = "http://%s:%d" % self.client
        self.process, self.output = None, open(self.folder / "output", "ab")

    def start(self):
        command, environment = self.command()
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.output, stderr=self.output
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
            if answers(self.url + "/_matrix/client/versions"):
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not come up")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=60)


class Engram(Homeserver):
    """`peer` is (name, address) of the other server, `authority` the CA to trust."""

    def __init__(self, binary, name, folder, host, authority, peer):
        super().__init__(name, folder, host)
        self.binary = binary
        certificate, key = authority.certify(host)
        self.settings = {
            "SERVER_NAME": name,
            "DATA_DIR": self.folder / "data",
            "CLIENT__BIND": "%s:%d" % self.client,
            "FEDERATION__BIND": "%s:%d" % self.federation,
            "FEDERATION__TLS_CERT": certificate,
            "FEDERATION__TLS_KEY": key,
            "FEDERATION__EXTRA_CA": authority.path,
            "FEDERATION__STATIC_HOSTS": "%s=%s:%d" % (peer[0], *peer[1]),
            "TELEMETRY__METRICS_BIND": "127.0.0.1:0",
            "REGISTRATION__OPEN": "true",
            "RATE_LIMITS__ENABLED": "false",
        }

    def command(self):
        environment = dict(os.environ)
        environment.update(("ENGRAM__" + key, str(value)) for key, value in self.settings.items())
        return [str(self.binary), "serve"], environment


class Synapse(Homeserver):
    """With SQLite, in the virtual environment that this runs in."""

    def __init__(self, name, folder, host, authority, named_by_address=False):
        super().__init__(name, folder, host)
        if named_by_address:
            self.name = name = "%s:%d" % self.federation
        certificate, key = authority.certify(name.split(":")[0])
        values = dict(
            name=name, folder=self.folder, client=self.client, federation=self.federation,
            certificate=certificate, key=key, authority=authority.path,
        )
        (self.folder / "homeserver.yaml").write_text(SYNAPSE.format(**values))
        (self.folder / "log.yaml").write_text(SYNAPSE_LOG.format(**values))
        self._run("--generate-keys")

    def _run(self, *more):
        subprocess.run(self._command(*more), check=True, stdout=self.output, stderr=self.output)

    def _command(self, *more):
        config = str(self.folder / "homeserver.yaml")
        return [sys.executable, "-m", "synapse.app.homeserver", "-c", config, *more]

    def command(self):
        return self._command(), dict(os.environ)
