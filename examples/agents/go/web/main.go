// A web service behind NAT in Go: the stock HTTP/2 server, with the handler it has, at the end of a tunnel.
//
//	go run . <tunnel.json        (what OpenTunnel answered for the address http://, or the URI alone)
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"

	"golang.org/x/net/http2"
)

func handler(w http.ResponseWriter, r *http.Request) {
	if r.Method == "POST" {
		io.Copy(w, r.Body)
		return
	}
	fmt.Fprintf(w, "Hello from Go. You are %s\n", r.Header.Get("Forwarded"))
}

func main() {
	input, _ := io.ReadAll(os.Stdin)
	uri, err := url.Parse(regexp.MustCompile(`ptth:[^"\s]+`).FindString(string(input)))
	if err != nil || uri.User == nil {
		log.Fatal("a ptth:// tunnel URI is wanted on stdin")
	}
	conn, err := net.Dial("tcp", uri.Host)
	if err != nil {
		log.Fatal(err)
	}
	request, _ := http.NewRequest("GET", "http://"+uri.Host+uri.Path, nil)
	password, _ := uri.User.Password()
	request.SetBasicAuth(uri.User.Username(), password)
	for name, value := range map[string]string{"Connection": "upgrade", "Upgrade": "ptth", "ALPN": "h2"} {
		request.Header.Set(name, value)
	}
	request.Write(conn)
	reader := bufio.NewReader(conn) // HTTP/2 may have begun right behind the 101, and stays in it
	response, err := http.ReadResponse(reader, request)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		log.Fatal("the server answers ", response, err)
	}
	log.Print("serving")
	(&http2.Server{}).ServeConn(buffered{conn, reader}, &http2.ServeConnOpts{Handler: http.HandlerFunc(handler)})
}

// buffered is a connection of which some has been read.
type buffered struct {
	net.Conn
	reader io.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.reader.Read(p) }
