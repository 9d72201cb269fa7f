// Go's net/http as a client: each row's answer and the next one, a JSON line each.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

type answer struct {
	Status int     `json:"status,omitempty"`
	Reason *string `json:"reason,omitempty"`
	Body   string  `json:"body"`
	Error  string  `json:"error,omitempty"`
}

var client = &http.Client{
	Timeout:       10 * time.Second,
	Transport:     &http.Transport{MaxConnsPerHost: 1, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func get(url string) answer {
	response, err := client.Get(url)
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{Error: err.Error()}
	}
	seen := answer{Status: response.StatusCode, Body: hex.EncodeToString(body)}
	if reason := response.Header.Get("x-outrigger-reason"); reason != "" {
		seen.Reason = &reason
	}
	return seen
}

func main() {
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	for index := 0; index < count; index++ {
		row := get(fmt.Sprintf("%s/row/%d", os.Args[1], index))
		next := get(fmt.Sprintf("%s/next/%d", os.Args[1], index))
		line, err := json.Marshal(map[string]any{"index": index, "answer": row, "next": next})
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}
