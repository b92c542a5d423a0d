package rest

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"holdfast/kv"
)

// openapi is the document as people edit it.
func openapi(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func describe(t *testing.T) described {
	t.Helper()
	var d map[string]any
	if err := yaml.Unmarshal(openapi(t), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

var methodsOfPath = []string{"get", "head", "put", "post", "delete"}

// operations calls f for each operation of the document, named as "GET /v1/kv/{key}".
func (d described) operations(f func(name string, op map[string]any, parameters []map[string]any)) {
	paths := d["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := paths[path].(map[string]any)
		for _, method := range methodsOfPath {
			op, ok := item[method].(map[string]any)
			if !ok {
				continue
			}
			var parameters []map[string]any
			for _, list := range []any{item["parameters"], op["parameters"]} {
				list, _ := list.([]any)
				for _, p := range list {
					parameters = append(parameters, d.resolve(p))
				}
			}
			f(strings.ToUpper(method)+" "+path, op, parameters)
		}
	}
}

// names returns the names of the parameters that stand in the query, or in the header.
func names(parameters []map[string]any, in string) (out []string) {
	for _, p := range parameters {
		if p["in"] == in {
			out = append(out, p["name"].(string))
		}
	}
	slices.Sort(out)
	return out
}

// onePath is a path of the document with its names filled in.
var onePath = strings.NewReplacer("{key}", "a", "{id}", "1", "{op}", "1", "{token}", "1", "{node}", "self", "{change}", "promote").Replace

func TestTheDocumentIsServed(t *testing.T) {
	n, document := serve(t), openapi(t)
	r := n.call("GET", "/v1/openapi.yaml", "").want(t, 200)
	if r.body != string(document) {
		t.Error("openapi.yaml has changed since it was packed: go generate ./api/rest")
	}
	r.wantHeaders(t, map[string]string{"Content-Type": "application/yaml", "X-Content-Type-Options": "nosniff"})
	if r := n.call("HEAD", "/v1/openapi.yaml", "").want(t, 200); r.body != "" || r.header.Get("Content-Length") != fmt.Sprint(len(document)) {
		t.Errorf("HEAD: %v", r.header)
	}
	n.call("GET", "/v1/openapi.yaml?x", "").refused(t, 400, "invalid")
	n.call("PUT", "/v1/openapi.yaml", "").refused(t, 405, "method-not-allowed")
}

// Each path of the document is served by exactly its methods, and each route of the node is in the document.
func TestTheDocumentHasEveryRouteAndMethod(t *testing.T) {
	d, n := describe(t), serveAdmin(t, &office{})
	served := map[string][]string{}
	d.operations(func(name string, _ map[string]any, _ []map[string]any) {
		method, path, _ := strings.Cut(name, " ")
		served[path] = append(served[path], method)
	})
	leads := map[target]bool{}
	for path, methods := range served {
		r := n.call("OPTIONS", onePath(path), "").want(t, 204)
		allowed := strings.Split(r.header.Get("Allow"), ", ")
		methods = append(methods, "OPTIONS")
		slices.Sort(methods)
		slices.Sort(allowed)
		if !slices.Equal(methods, allowed) {
			t.Errorf("%s: described %v, allowed %v", path, methods, allowed)
		}
		to, _ := route(n.request("GET", onePath(path), "").URL)
		leads[to] = true
	}
	for to := toNothing + 1; to < targets; to++ {
		if !leads[to] {
			t.Errorf("target %d is in no path of the document", to)
		}
	}
}

// takes returns the query parameters that a call says it takes when it is given one that nobody knows.
func (n *node) takes(method, path string) (out []string) {
	n.t.Helper()
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	body := ""
	if strings.HasPrefix(path, txnPath) {
		body = "{}"
	}
	var detail string
	if r := n.call(method, path+separator+"nobody_knows", body).want(n.t, 400); method != http.MethodHead {
		detail = fmt.Sprint(r.problem(n.t)["detail"])
	} else {
		return nil
	}
	list, ok := strings.CutPrefix(detail, `query parameter "nobody_knows" is not known here; this call takes `)
	if !ok {
		n.t.Fatalf("%s %s: %s", method, path, detail)
	}
	if list != "none" {
		out = strings.Split(list, ", ")
	}
	return out
}

// The query parameters of the document are those that the handlers take.
func TestTheDocumentHasEveryQueryParameter(t *testing.T) {
	d, n := describe(t), serveAdmin(t, &office{})
	d.operations(func(name string, _ map[string]any, parameters []map[string]any) {
		method, path, _ := strings.Cut(name, " ")
		if method == http.MethodHead {
			return // as for GET; that each is taken is shown by an example
		}
		forms := []string{onePath(path)}
		if name == "GET /v1/kv/{key}" {
			forms = append(forms, "/v1/kv/a?prefix", "/v1/kv/a?watch", "/v1/kv/a?index=1")
		}
		taken := map[string]bool{}
		for _, form := range forms {
			for _, p := range n.takes(method, form) {
				taken[p] = true
			}
		}
		if got, want := names(parameters, "query"), slices.Sorted(maps.Keys(taken)); !slices.Equal(got, want) {
			t.Errorf("%s: described %v, taken %v", name, got, want)
		}
	})
}

// The codes of the document are those of the node, and those of this package that are HTTP's own.
func TestTheDocumentHasEveryProblem(t *testing.T) {
	var described []string
	for _, code := range describe(t).at("#/components/schemas/Problem/properties/code/enum").([]any) {
		described = append(described, code.(string))
	}
	given := map[string]bool{}
	for code := kv.Code(1); int(code) < kv.Codes; code++ {
		given[code.String()] = true
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`\bcode: "([a-z-]+)"`).FindAllSubmatch(source, -1) {
			given[string(found[1])] = true
		}
	}
	slices.Sort(described)
	if want := slices.Sorted(maps.Keys(given)); !slices.Equal(described, want) {
		t.Errorf("described %v\ngiven     %v", described, want)
	}
}

// Every status that the document has for an operation is shown by an example, whose body, headers and request are as the
// document says; no example shows another one.
func TestTheDocumentIsTrueOfItsExamples(t *testing.T) {
	d := describe(t)
	shown := map[string]bool{}   // operation and status
	used := map[string]bool{}    // operation and parameter, by an example that succeeds
	headers := map[string]bool{} // of replies
	for _, e := range examples {
		e.run(t, d, shown, used, headers)
	}
	d.operations(func(name string, op map[string]any, parameters []map[string]any) {
		for status := range op["responses"].(map[string]any) {
			if !shown[name+" "+status] {
				t.Errorf("%s: no example shows status %s", name, status)
			}
		}
		for _, in := range []string{"query", "header"} {
			for _, p := range names(parameters, in) {
				if !used[name+" "+p] {
					t.Errorf("%s: no example succeeds with the parameter %s", name, p)
				}
			}
		}
	})
	for name := range d.at("#/components/headers").(map[string]any) {
		if !headers[name] {
			t.Errorf("no example shows the header %s", name)
		}
	}
}

// example is a request whose reply has to be as the document says. A status of 0 stands for any that only "default"
// describes.
type example struct {
	op      string // "GET /v1/kv/{key}"
	status  int
	path    string // with its query; {next} is where a list of p/ goes on behind its first key
	body    string
	headers []string
	given   func(n *node) // what is the case before
	options func(o *Options)
	until   string // in the last line of a stream that would not end by itself
	device  bool   // not on the administration socket
	halts   bool   // its body never arrives
}

func (e example) run(t *testing.T, d described, shown, used, headers map[string]bool) {
	t.Helper()
	name := fmt.Sprintf("%s %d %s", e.op, e.status, e.path)
	n := serveAdmin(t, &office{}, func(o *Options) {
		if e.options != nil {
			e.options(o)
		}
	})
	if e.device {
		n.Server.Config.Handler = n.handler
	}
	if e.given != nil {
		e.given(n)
	}
	if strings.Contains(e.path, "{next}") {
		e.path = strings.ReplaceAll(e.path, "{next}", n.call("GET", "/v1/kv/p/?prefix&limit=1", "").list(t).Next)
	}
	method, path, _ := strings.Cut(e.op, " ")
	op := d["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(method)].(map[string]any)
	r := e.send(n, method)
	responses := op["responses"].(map[string]any)
	status := fmt.Sprint(r.status)
	if e.status == 0 && responses[status] == nil {
		status = "default"
	}
	if want := fmt.Sprint(e.status); e.status != 0 && status != want || e.status == 0 && status != "default" || responses[status] == nil {
		t.Errorf("%s: status %s, described are %v; body %s", name, status, slices.Sorted(maps.Keys(responses)), r.body)
		return
	}
	shown[e.op+" "+status] = true
	e.note(n, used, r.status)
	response := d.resolve(responses[status])
	if fault := d.headersHold(response, r.header, headers); fault != "" {
		t.Errorf("%s: %s", name, fault)
	}
	if fault := d.bodyHolds(response["content"], r.header.Get("Content-Type"), r.body, method == http.MethodHead); fault != "" {
		t.Errorf("%s: %s", name, fault)
	}
	if r.status < 300 && e.body != "" {
		asked, _ := op["requestBody"].(map[string]any)
		content, _ := asked["content"].(map[string]any)
		for kind := range content {
			if fault := d.bodyHolds(content, kind, e.body, false); fault != "" {
				t.Errorf("%s: the request: %s", name, fault)
			}
		}
	}
}

func (e example) send(n *node, method string) reply {
	n.t.Helper()
	switch {
	case e.halts:
		_, br := n.raw("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", method, e.path)
		return n.answer(br)
	case e.until == "":
		return n.call(method, e.path, e.body, e.headers...)
	}
	f := n.follow(e.path, e.headers...)
	r := reply{status: f.resp.StatusCode, header: f.resp.Header}
	for f.lines.Scan() {
		r.body += f.lines.Text() + "\n"
		if strings.Contains(f.lines.Text(), e.until) {
			return r
		}
	}
	n.t.Fatalf("%s: the stream ended before %q: %s", e.path, e.until, r.body)
	return r
}

// note marks the parameters of an example that was served.
func (e example) note(n *node, used map[string]bool, status int) {
	if status >= 400 {
		return
	}
	for name := range n.request("GET", e.path, "").URL.Query() {
		used[e.op+" "+name] = true
	}
	for i := 0; i < len(e.headers); i += 2 {
		used[e.op+" "+e.headers[i]] = true
	}
}

// headersOfHTTP are not described for each response: they say how the message is to be read, or are the server's.
var headersOfHTTP = []string{"Content-Type", "Content-Length", "Date", "X-Content-Type-Options", "Cache-Control", "X-Accel-Buffering", "Transfer-Encoding", "Connection"}

// headersHold compares the headers of a reply with those described, and notes which of the document's were seen.
func (d described) headersHold(response map[string]any, header http.Header, seen map[string]bool) string {
	known, _ := response["headers"].(map[string]any)
	for name, values := range header {
		if slices.Contains(headersOfHTTP, name) {
			continue
		}
		var found any
		for k, v := range known {
			if http.CanonicalHeaderKey(k) == name {
				found = v
			}
		}
		if found == nil {
			return fmt.Sprintf("the header %s is not described", name)
		}
		ref, _ := found.(map[string]any)["$ref"].(string)
		seen[strings.TrimPrefix(ref, "#/components/headers/")] = true
		schema := d.resolve(found)["schema"]
		var value any = values[0]
		if d.resolve(schema)["type"] == "integer" {
			if err := json.Unmarshal([]byte(values[0]), &value); err != nil {
				return fmt.Sprintf("%s: %s is not a number", name, values[0])
			}
		}
		if fault := d.holds(schema, value, name); fault != "" {
			return fault
		}
	}
	return ""
}

// bodyHolds compares a body with what is described for its type.
func (d described) bodyHolds(content any, contentType, body string, head bool) string {
	described, _ := content.(map[string]any)
	kind, _, err := mime.ParseMediaType(contentType)
	switch {
	case head:
		return ""
	case body == "" && described == nil:
		return ""
	case err != nil && body == "":
		return ""
	case err != nil || described[kind] == nil:
		return fmt.Sprintf("a body of type %q is not described: %s", contentType, body)
	}
	schema := described[kind].(map[string]any)["schema"]
	switch kind {
	case "application/octet-stream":
		return ""
	case "application/yaml":
		var v map[string]any
		if err := yaml.Unmarshal([]byte(body), &v); err != nil {
			return err.Error()
		}
		return d.holds(schema, v, "body")
	case "application/x-ndjson", "text/event-stream":
		for line := range strings.Lines(body) {
			data := strings.TrimSpace(line)
			if kind == "text/event-stream" {
				var isData bool
				if data, isData = strings.CutPrefix(data, "data: "); !isData {
					continue
				}
			}
			if fault := d.jsonHolds(schema, data); fault != "" {
				return fault
			}
		}
		return ""
	}
	return d.jsonHolds(schema, body)
}

func (d described) jsonHolds(schema any, text string) string {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return fmt.Sprintf("%q: %v", text, err)
	}
	return d.holds(schema, v, "body")
}
