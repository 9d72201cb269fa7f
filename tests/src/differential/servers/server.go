// Go's net/http as a backend: one JSON line for every request it saw, and the same as the answer.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
)

type record struct {
	Tag      *string `json:"tag"`
	Method   string  `json:"method"`
	Target   string  `json:"target"`
	Host     string  `json:"host"`
	Body     string  `json:"body"`
	Complete bool    `json:"complete"`
}

var lock sync.Mutex

func say(line []byte) {
	lock.Lock()
	defer lock.Unlock()
	fmt.Println(string(line))
}

func serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	seen := record{Method: r.Method, Target: r.RequestURI, Host: r.Host, Body: hex.EncodeToString(body), Complete: err == nil}
	if tags := r.Header.Values("X-Tag"); len(tags) > 0 {
		seen.Tag = &tags[0]
	}
	line, err := json.Marshal(seen)
	if err != nil {
		panic(err)
	}
	say(line)
	w.Header().Set("x-seen-tag", r.Header.Get("X-Tag"))
	if !seen.Complete {
		w.WriteHeader(http.StatusBadRequest)
	}
	w.Write(line)
}

func main() {
	server := &http.Server{Addr: "127.0.0.1:" + os.Args[1], Handler: http.HandlerFunc(serve)}
	panic(server.ListenAndServe())
}
