/** The build makes a string of it. */
declare module '*.css' {
  const text: string;
  export default text;
}
