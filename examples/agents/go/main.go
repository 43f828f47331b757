// An agent of the mux backend in Go's standard library: serves a tunnel's clients from a local TCP service.
//
//	go run . 127.0.0.1:3000 <<<"$TNL_URI"        (a tunnel URI is a secret: not an argument, which everybody can read)
//
// A Go handler cannot half-close: its response ends when it returns, and then the request is over too. So the end of what the
// service says ends the client in both directions. What the client says after that is lost.
package main

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	mathrand "math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// client serves one client: its CONNECT is r.
func client(w http.ResponseWriter, r *http.Request, target string) {
	conn, err := net.Dial("tcp", target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	local := conn.(*net.TCPConn)
	defer local.Close()
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		abort(local)
	}

	finished := make(chan struct{}) // the client has said all, and local was told
	broken := make(chan error, 1)   // met by a write: told once, and the end that reading then finds is none
	go func() {
		buffer := make([]byte, 64*1024)
		for {
			n, err := r.Body.Read(buffer)
			if _, failed := local.Write(buffer[:n]); failed != nil {
				broken <- failed
				io.Copy(io.Discard, r.Body) // what the service said before is still to be read
				return
			}
			if err == io.EOF {
				local.CloseWrite()
				close(finished)
				return
			}
			if err != nil { // the client has aborted
				abort(local)
				return
			}
		}
	}()

	buffer := make([]byte, 64*1024)
	for {
		n, err := local.Read(buffer)
		if n > 0 && err == nil {
			if _, err = w.Write(buffer[:n]); err == nil {
				err = http.NewResponseController(w).Flush()
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			abort(local)
			panic(http.ErrAbortHandler) // RST_STREAM
		}
	}
	select {
	case failed := <-broken:
		if errors.Is(failed, syscall.ECONNRESET) {
			panic(http.ErrAbortHandler)
		}
	case <-finished:
	default:
		abort(local) // the client's last words are lost, and that must not look like an end
	}
}

// abort closes with a reset.
func abort(local *net.TCPConn) {
	local.SetLinger(0)
	local.Close()
}

// refused is an answer other than 101.
type refused struct {
	status int
	after  time.Duration
}

func (r refused) Error() string { return fmt.Sprintf("the server answers %d", r.status) }

func connect(uri *url.URL) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if uri.Scheme == "ptths" {
		return tls.DialWithDialer(dialer, "tcp", uri.Host, &tls.Config{NextProtos: []string{"http/1.1"}})
	}
	return dialer.Dial("tcp", uri.Host)
}

// session is one connection to the server, until it ends. It reports whether it came to serve.
func session(uri *url.URL, name, target string) (bool, error) {
	conn, err := connect(uri)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	request, err := http.NewRequest("GET", fmt.Sprintf("http://%s%s?agent=%s", uri.Host, uri.Path, name), nil)
	if err != nil {
		return false, err
	}
	password, _ := uri.User.Password()
	request.SetBasicAuth(uri.User.Username(), password)
	request.Header.Set("Connection", "upgrade")
	request.Header.Set("Upgrade", "ptth")
	request.Header.Set("ALPN", "h2")
	if err := request.Write(conn); err != nil {
		return false, err
	}
	reader := bufio.NewReader(conn) // HTTP/2 may have begun right behind the 101, and stays in it
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return false, err
	}
	if response.StatusCode == http.StatusUnauthorized {
		log.Fatal("the tunnel is closed or its URI is wrong; open it again")
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return false, refused{response.StatusCode, time.Duration(seconds) * time.Second}
	}
	conn.SetDeadline(time.Time{})
	log.Print("serving")
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	only := &onlyConn{Conn: conn, reader: reader, closed: make(chan struct{})}
	server := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { client(w, r, target) }),
		Protocols: &protocols,
		ErrorLog:  log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 4096,
			// The streams' windows bound what is on its way. Were the connection's no larger than one of them, a single
			// client whose service has stopped reading would stop all others.
			MaxReceiveBufferPerConnection: 1 << 30,
			MaxReceiveBufferPerStream:     64 * 1024,
			SendPingTimeout:               5 * time.Second,
			PingTimeout:                   10 * time.Second,
		},
	}
	return true, server.Serve(only)
}

// onlyConn is a connection some of which has been read, and the listener that it is all of.
type onlyConn struct {
	net.Conn
	reader   *bufio.Reader
	accepted bool
	once     sync.Once
	closed   chan struct{}
}

func (c *onlyConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

func (c *onlyConn) Accept() (net.Conn, error) {
	if !c.accepted {
		c.accepted = true
		return c, nil
	}
	<-c.closed
	return nil, io.EOF
}

func (c *onlyConn) Addr() net.Addr { return c.LocalAddr() }

func (c *onlyConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("which local service? HOST:PORT")
	}
	text := os.Getenv("TNL_URI")
	if text == "" {
		input, _ := io.ReadAll(os.Stdin)
		text = string(input)
	}
	uri, err := url.Parse(regexp.MustCompile(`ptths?:[^"\s]+`).FindString(text))
	if err != nil || uri.User == nil {
		log.Fatal("a ptth:// or ptths:// tunnel URI is wanted in TNL_URI or on stdin")
	}
	// The name lets the next session replace one that was lost before the server has noticed.
	name, wait := rand.Text(), 500*time.Millisecond
	for {
		served, err := session(uri, name, os.Args[1])
		log.Print("the session ended: ", err)
		if served {
			wait = 500 * time.Millisecond
		}
		var no refused
		errors.As(err, &no)
		time.Sleep(no.after + time.Duration(mathrand.Int63n(int64(wait))))
		wait = min(2*wait, 30*time.Second)
	}
}
