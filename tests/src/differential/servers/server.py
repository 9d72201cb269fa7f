"""gunicorn as a backend: one JSON line for every request it saw, and the same as the answer."""
import json
import sys


def application(environ, start_response):
    complete, body = True, b""
    try:
        while chunk := environ["wsgi.input"].read(65536):
            body += chunk
        declared = environ.get("CONTENT_LENGTH")
        if declared and len(body) != int(declared):
            complete = False
    except Exception:
        complete = False
    tag = environ.get("HTTP_X_TAG")
    line = json.dumps(
        {
            "tag": tag,
            "method": environ["REQUEST_METHOD"],
            "target": environ["RAW_URI"],
            "host": environ.get("HTTP_HOST"),
            "body": body.hex(),
            "complete": complete,
        }
    )
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    payload = line.encode()
    start_response(
        "200 OK" if complete else "400 Bad Request",
        [("x-seen-tag", tag or ""), ("content-length", str(len(payload)))],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [payload]
