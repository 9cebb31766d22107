"""An app that answers over HTTP, WebSocket and event stream, and tells what it finds around it."""

from __future__ import annotations

# Standard library only. `/probe` tells what the app finds around it.
APP = """
import base64, hashlib, http.server, importlib.util, json, os, resource, socket, time, urllib.request
WORDS = {words!r}
def can(call):
    try:
        call()
        return "yes"
    except Exception as error:
        return type(error).__name__
def connect(host, port):
    with socket.socket() as s:
        s.settimeout(1)
        s.connect((host, port))
def gateway():
    row = next(line.split() for line in open("/proc/net/route") if line.split()[1] == "00000000")
    return socket.inet_ntoa(int(row[2], 16).to_bytes(4, "little"))
def probe(query):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    ours = ("/proc", "/sys", "/dev", "/home/user", "/tmp")
    writable = [d for d, _, _ in os.walk("/") if not d.startswith(ours) and os.access(d, os.W_OK)]
    hub = os.environ["HF_ENDPOINT"]
    return {{
        "uid": os.getuid(), "caps": status["CapBnd"].strip(), "no_new_privs": status["NoNewPrivs"].strip(),
        "seccomp": status["Seccomp"].strip(), "writable": writable, "home": can(lambda: open("/home/user/x", "w")),
        "app": can(lambda: open("x", "w")), "tmp": can(lambda: open("/tmp/x", "w")), "hub": hub,
        "hub_answers": can(lambda: urllib.request.urlopen(hub + "/api/spaces", timeout=3)),
        "registry": can(lambda: connect(gateway(), int(query["registry"]))), "metadata": can(lambda: connect("169.254.169.254", 80)),
        "loopback": can(lambda: connect("127.0.0.1", int(query["registry"]))), "ssh": can(lambda: connect(gateway(), 22)),
        "raw": can(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)), "docker": os.path.exists("/var/run/docker.sock"),
        "processes": len([p for p in os.listdir("/proc") if p.isdigit()]), "files": resource.getrlimit(7)[1],
        "environment": sorted(os.environ), "tinydep": importlib.util.find_spec("tinydep") is not None,
    }}
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): print("asked", self.path, flush=True)
    def answer(self, text):
        body = text.encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/probe":
            self.answer(json.dumps(probe(dict(p.split("=") for p in query.split("&")))))
        elif path == "/exit":
            print("leaving now", flush=True); os._exit(7)
        elif path == "/events":
            self.send_response(200); self.send_header("Content-Type", "text/event-stream"); self.send_header("Connection", "close")
            self.end_headers()
            for n in range(3):
                self.wfile.write(f"data: {{n}}\\n\\n".encode()); self.wfile.flush(); time.sleep(0.05)
            self.close_connection = True
        elif path == "/ws":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.send_response(101); self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", accept); self.end_headers()
            text = WORDS.encode(); self.wfile.write(bytes([0x81, len(text)]) + text); self.wfile.flush(); self.rfile.read(1)
        else:
            self.answer(WORDS)
print("listening", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "7860"))), H).serve_forever()
"""
