// Sends one image in each protocol with nothing but Go's standard library; prints a line of name, status and response
// for each.
package main

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strings"
)

type tensor struct {
	Name       string         `json:"name"`
	Datatype   string         `json:"datatype"`
	Shape      []int          `json:"shape"`
	Parameters map[string]any `json:"parameters"` // null: without omitempty, as many Go programs write it
	Data       [][]byte       `json:"data"`       // encoding/json writes []byte as base64
}

type inferRequest struct {
	ID         *string        `json:"id"`
	Parameters map[string]any `json:"parameters"`
	Inputs     []tensor       `json:"inputs"`
	Outputs    []tensor       `json:"outputs"`
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func compressed(content []byte, open func(io.Writer) io.WriteCloser) []byte {
	var buffer bytes.Buffer
	writer := open(&buffer)
	_, err := writer.Write(content)
	check(err)
	check(writer.Close())
	return buffer.Bytes()
}

func main() {
	server, model := os.Args[1], os.Args[2]
	image, err := os.ReadFile(os.Args[3])
	check(err)
	v1, err := json.Marshal(map[string]any{"instances": []map[string][]byte{{"data": image}}})
	check(err)
	v2, err := json.Marshal(inferRequest{
		Inputs: []tensor{{Name: "image", Datatype: "BYTES", Shape: []int{1, 1}, Data: [][]byte{image}}},
	})
	check(err)
	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	part, err := parts.CreateFormFile("image", "photo.jpg")
	check(err)
	_, err = part.Write(image)
	check(err)
	check(parts.Close())
	gzipped := func(writer io.Writer) io.WriteCloser { return gzip.NewWriter(writer) }
	zlibbed := func(writer io.Writer) io.WriteCloser { return zlib.NewWriter(writer) }
	deflated := func(writer io.Writer) io.WriteCloser {
		compressor, err := flate.NewWriter(writer, flate.BestCompression)
		check(err)
		return compressor
	}

	infer, jsonType := "/v2/models/"+model+"/infer", "application/json"
	post := func(name, path, contentType, encoding string, body io.Reader) {
		request, err := http.NewRequest(http.MethodPost, server+path, body)
		check(err)
		request.Header.Set("Content-Type", contentType)
		if encoding != "" {
			request.Header.Set("Content-Encoding", encoding)
		}
		response, err := http.DefaultClient.Do(request)
		check(err)
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		check(err)
		fmt.Printf("%s\t%d\t%s\n", name, response.StatusCode, strings.TrimSpace(string(content)))
	}
	post("raw", "/predict", "image/jpeg", "", bytes.NewReader(image))
	// A reader of unknown length is sent in chunks.
	post("raw, chunked", "/predict", "image/jpeg", "gzip", io.MultiReader(bytes.NewReader(compressed(image, gzipped))))
	post("form", "/predict", parts.FormDataContentType(), "", &form)
	post("V1", "/v1/models/"+model+":predict", jsonType, "", bytes.NewReader(v1))
	post("V2", infer, jsonType, "", bytes.NewReader(v2))
	post("V2, gzip", infer, jsonType, "gzip", bytes.NewReader(compressed(v2, gzipped)))
	post("V2, zlib", infer, jsonType, "deflate", bytes.NewReader(compressed(v2, zlibbed)))
	post("V2, deflate", infer, jsonType, "deflate", bytes.NewReader(compressed(v2, deflated)))
}
