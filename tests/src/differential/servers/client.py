"""Python's http.client as a client: each row's answer and the next one, a JSON line each."""
import http.client
import json
import sys

HOST, PORT = sys.argv[1].removeprefix("http://").rsplit(":", 1)


def get(connection, path):
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        if response.status < 200:  # this client takes an interim answer for the last one
            connection.close()
        reason = response.getheader("x-outrigger-reason")
        return {"status": response.status, "reason": reason, "body": body.hex()}
    except (http.client.HTTPException, OSError) as error:
        connection.close()
        return {"error": repr(error)}


kept = http.client.HTTPConnection(HOST, int(PORT), timeout=10)
for index in range(int(sys.argv[2])):
    answer = get(kept, f"/row/{index}")
    following = get(kept, f"/next/{index}")
    print(json.dumps({"index": index, "answer": answer, "next": following}), flush=True)
